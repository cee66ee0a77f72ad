# routerd and the HAProxy that it runs, of the series that the tests run. Build it in the root of the repository.
#
# HAProxy is that of its official image, on Debian. Another one, from a mirror or of your own, is
# --build-arg HAPROXY_IMAGE=...: it must have /usr/local/sbin/haproxy, 3.4 or newer.
ARG GO_IMAGE=golang:1.26
ARG HAPROXY_IMAGE=haproxy:3.4

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
ARG GO_IMAGE
ARG HAPROXY_IMAGE
# A release is built on images that nobody can exchange behind their names.
RUN deploy/images/pinned.sh "${VERSION}" "${GO_IMAGE}" "${HAPROXY_IMAGE}"
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/routerd ./cmd/routerd

FROM ${HAPROXY_IMAGE}
LABEL org.opencontainers.image.title="tsuji routerd" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/routerd /usr/local/bin/routerd
# With a HAProxy that is too old, or that cannot run, the build ends here.
RUN /usr/local/sbin/haproxy -v | grep -E '^HAProxy version (3\.([4-9]|[1-9][0-9])|[4-9]\.)'
USER 65532:65532
ENV TSUJI_HAPROXY=/usr/local/sbin/haproxy
EXPOSE 8080 8443 1936 9402
# The base image's signal would end routerd at once; this one has it drain.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/routerd"]
