# find by name over the whole root, without leaving its file system.
set -eu
[ "$1" = small ] && root=/etc || root=/
# What may not be read, or is removed meanwhile, makes it fail.
find $root -xdev -name '*.conf' > found 2> errors || true
[ -s found ]
wc -l < found
