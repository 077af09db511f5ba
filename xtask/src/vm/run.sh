#!/bin/sh
# What a machine of `cargo xtask vm-test` does. Lines that begin with @@ are read by it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export STETH_BIN=/payload/steth RUST_BACKTRACE=0 TEST_PATIENCE=10
ip link set lo up
echo "@@ kernel $(uname -r)"
if [ -e /payload/probes ]; then
    /payload/steth doctor --json > /tmp/doctor 2>&1
    while read -r line; do echo "@@ doctor $line"; done < /tmp/doctor
fi
cd /payload/tests || exit
while read -r program test; do
    echo "@@ begin $program $test"
    timeout --kill-after=10 600 "/payload/bin/$program" --exact "$test" --show-output --test-threads=1 < /dev/null 2>&1 | cut -c1-2000
    echo "@@ end"
done < /payload/plan
echo "@@ done"
