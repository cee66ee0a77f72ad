# routerd alone: HAProxy runs beside it, from an image of its own. Build it in the root of the repository.
ARG GO_IMAGE=golang:1.26

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
ARG GO_IMAGE
# A release is built on images that nobody can exchange behind their names.
RUN deploy/images/pinned.sh "${VERSION}" "${GO_IMAGE}"
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/routerd ./cmd/routerd

FROM scratch
LABEL org.opencontainers.image.title="tsuji routerd" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/routerd /usr/local/bin/routerd
USER 65532:65532
EXPOSE 9402
ENTRYPOINT ["/usr/local/bin/routerd"]
