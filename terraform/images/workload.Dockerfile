# Packed by terraform/images/build, which makes rootfs.tar and says which image of meridian it stands on.
ARG MERIDIAN
FROM ${MERIDIAN}
ADD rootfs.tar /
EXPOSE 8080
ENTRYPOINT ["/usr/bin/workload"]
CMD []
HEALTHCHECK --interval=2s --timeout=8s --start-period=60s --retries=5 CMD ["/usr/bin/workload", "health"]
