# Both programs, built outside: nothing is downloaded or compiled here, so the image needs no network.
#
#   cargo build --profile dist -p bitdex-query -p bitdex-sync
#   docker build -t bitdex:0.1.0 --build-arg PROGRAMS=target/dist .
#
# They link against the C library alone: build them on Debian 12 or an older system.
FROM debian:bookworm-slim
ARG PROGRAMS=target/dist
COPY --chmod=0755 ${PROGRAMS}/bitdex-query ${PROGRAMS}/bitdex-sync /usr/local/bin/
USER 65532:65532
# gRPC, HTTP of query; HTTP of sync.
EXPOSE 7600 7601 7602
CMD ["bitdex-query", "--help"]
