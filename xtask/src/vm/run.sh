#!/bin/sh
# What a machine of `cargo xtask vm-test` does. Lines that begin with @@ are read by it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export STETH_BIN=/payload/steth RUST_BACKTRACE=0 TEST_PATIENCE=10
[ "$1" = systemd ] && export STETH_DEB=/payload/steth.deb STETH_NEXT_DEB=/payload/next.deb STETH_INSTALL_HERE=1
ip link set lo up
echo "@@ kernel $(uname -r)"
plan=/payload/plan${1:+-$1}
if [ -z "$1" ] && [ -e /payload/probes ]; then
    # Of the environment it takes settings only.
    env --unset=STETH_BIN /payload/steth doctor --json > /tmp/doctor 2>&1
    while read -r line; do echo "@@ doctor $line"; done < /tmp/doctor
fi
cd /payload/tests || exit
while read -r program test; do
    echo "@@ begin $program $test"
    timeout --kill-after=10 1800 "/payload/bin/$program" --exact "$test" --show-output --test-threads=1 < /dev/null 2>&1 | cut -c1-2000
    echo "@@ end"
done < "$plan"
echo "@@ done"
