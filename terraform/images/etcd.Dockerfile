# Packed by terraform/images/build, which makes rootfs.tar. For tests and demonstrations: Debian's etcd is 3.4.
FROM scratch
ADD rootfs.tar /
USER 65532:65532
WORKDIR /var/lib/etcd
VOLUME /var/lib/etcd
ENV ETCDCTL_API=3
EXPOSE 2379 2380
ENTRYPOINT ["/usr/bin/etcd"]
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=5 CMD ["/usr/bin/etcdctl", "endpoint", "health"]
