# The image holds one static program and the certificate authorities of the public
# Internet. It runs as nobody in particular and needs nothing but a configuration.
#
#	docker build -t imlb .
#	docker run --stop-timeout 30 -v ./proxy.yaml:/etc/imlb/proxy.yaml:ro -p 5222:5222 -p 5223:5223 \
#	    imlb proxy --config /etc/imlb/proxy.yaml
#
# A stop takes up to timeouts.shutdown, 20 s; Docker by itself kills after 10.

FROM golang:1.26-bookworm AS build
WORKDIR /src

# Modules first: they change less often than the program.
COPY go.mod go.sum ./
RUN go mod download

COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/imlb ./cmd/imlb
RUN echo 'imlb:x:10001:10001:imlb:/data:/sbin/nologin' >/out/passwd \
 && echo 'imlb:x:10001:' >/out/group \
 && mkdir -p /out/data /out/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/passwd /out/group /etc/
COPY --from=build /out/imlb /imlb
COPY --from=build --chown=10001:10001 /out/data /data
COPY --from=build --chown=10001:10001 /out/tmp /tmp

USER 10001:10001
VOLUME /data
WORKDIR /data

# XMPP with STARTTLS; direct TLS; HTTPS for WebSocket, and QUIC; admin.
EXPOSE 5222/tcp 5223/tcp 5224/tcp 5224/udp 5225/tcp

HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["/imlb", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/imlb"]
CMD ["--help"]
