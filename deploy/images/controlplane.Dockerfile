# The control plane: one static program, and nothing else. Build it in the root of the repository.
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
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/controlplane ./cmd/controlplane

FROM scratch
LABEL org.opencontainers.image.title="tsuji controlplane" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/controlplane /usr/local/bin/controlplane
USER 65532:65532
EXPOSE 9400 9401
ENTRYPOINT ["/usr/local/bin/controlplane"]
