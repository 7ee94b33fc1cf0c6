# Has the kernel start aarch64 programs by an emulator (binfmt_misc). To be sourced; whoever does calls `forget` at the end.
registry=/proc/sys/fs/binfmt_misc
registered=$registry/sphere-gateway-arm64-$$
mounted=
if [ ! -e "$registry/register" ]; then
    mount -t binfmt_misc binfmt_misc "$registry"
    mounted=yes
fi

forget() {
    if [ -e "$registered" ]; then echo -1 >"$registered"; fi
    if [ "${1:-}" = all ] && [ -n "$mounted" ]; then umount "$registry"; fi
}

register() { # program that is given the file, then the arguments from the 0th on
    forget
    # What an ELF program for aarch64 starts with. F: found now, not below a chroot; P: its 0th argument is kept.
    local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":$(basename "$registered"):M::$magic:$mask:$1:PF" >"$registry/register"
}
