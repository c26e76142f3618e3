# make -j2 of mandoc, a C program of more than 90 files; it is configured already.
set -eu
[ "$1" = small ] && targets="compat_strlcpy.o mandoc_aux.o" || targets=
cd mandoc
# shellcheck disable=SC2086
make -j2 $targets > make.out 2>&1 || { tail -n 3 make.out >&2; exit 1; }
echo "$(ls ./*.o | wc -l) objects"
