# Packed by terraform/images/build, which makes rootfs.tar. It runs inside the network of another container, with the right to
# change that network and none else.
FROM scratch
ADD rootfs.tar /
ENV XTABLES_LIBDIR=/usr/lib/xtables
