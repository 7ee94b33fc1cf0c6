# A Raspberry Pi 4's processor, for the programs of the root folder: to be sourced after packaging/arm64-root.sh.
#
# Its Cortex-A72 has no AES, SHA-1, SHA-2 and PMULL instructions (they are an option that Broadcom left out). The
# emulator's has, and no switch for it: so a copy of it gets the register of a Pi's (ID_AA64ISAR0_EL1: CRC32, no more), and
# a program that runs an AES instruction dies as it would there. A probe shows that it does; nothing is taken on trust.
# The kernel starts it for every aarch64 program, also for those that tests start (binfmt_misc, until the script ends).
need perl perl-base
. tests/arm64/binfmt.sh
trap 'forget all' EXIT

mkdir -p "$root/emulator"
cp "$(command -v qemu-aarch64-static)" "$root/emulator/with-aes"
# 0x11120 -> 0x10000, where it is stored in a register's place: mov qword [rax + n], 0x11120.
perl -0777 -pe 's/(\x48\xc7\x80.{4})\x20\x11\x01\x00/$1\x00\x00\x01\x00/gs' "$root/emulator/with-aes" >"$root/emulator/as-pi4"
chmod 755 "$root/emulator/as-pi4"

cat >"$root/emulator/start.c" <<'EOF'
/* What the kernel starts: with its flag P it gives the file, then the program's own arguments from the 0th. Tests clear
   the environment, so that the processor is named here. */
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **given) {
    char **list = calloc(count + 6, sizeof *list);
    int n = 0;
    list[n++] = EMULATOR, list[n++] = "-cpu", list[n++] = "cortex-a72";
    list[n++] = "-0", list[n++] = given[2], list[n++] = given[1];
    for (int i = 3; i < count; i++) list[n++] = given[i];
    execv(EMULATOR, list);
    return 127;
}
EOF
cat >"$root/emulator/probe.c" <<'EOF'
/* Prints what the system says of AES and SHA-2; with an argument, runs an AES instruction. */
#include <stdio.h>
#include <sys/auxv.h>
int main(int count, char **given) {
    unsigned long has = getauxval(AT_HWCAP);
    printf("aes %lu sha2 %lu crc32 %lu\n", has >> 3 & 1, has >> 6 & 1, has >> 7 & 1);
    fflush(stdout);
    if (count > 1) __asm__ volatile(".arch armv8-a+crypto\n aese v0.16b, v1.16b" ::: "v0");
    return 0;
}
EOF
inside aarch64-linux-gnu-gcc -o /emulator/probe /emulator/probe.c

# From now on aarch64 programs run by one of the two: `as-pi4` or `with-aes`.
emulate() {
    inside gcc -DEMULATOR="\"/emulator/$1\"" -o "/emulator/start-$1" /emulator/start.c
    register "$root/emulator/start-$1"
}

emulate with-aes
[ "$(inside /emulator/probe run)" = "aes 1 sha2 1 crc32 1" ] || { echo "the emulator does not run" >&2; exit 1; }
emulate as-pi4
status=0
said=$(inside /emulator/probe run 2>/dev/null) || status=$?
if [ "$status $said" != "132 aes 0 sha2 0 crc32 1" ]; then
    echo "this emulator could not be made like a Pi 4's processor: status $status, $said" >&2
    exit 1
fi
