# Packed by terraform/images/build, which makes rootfs.tar.
FROM scratch
ADD rootfs.tar /
USER 65532:65532
WORKDIR /var/lib/meridian
VOLUME /var/lib/meridian
EXPOSE 8500 8510
ENTRYPOINT ["/usr/bin/meridian"]
CMD ["gateway", "--config", "/etc/meridian/config.toml"]
# It asks MERIDIAN_GATEWAY, the gateway on port 8500 where nothing is said.
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=5 CMD ["/usr/bin/meridian", "health"]
