if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # 1 is an installation, 2 an upgrade.
    if [ "$1" -eq 1 ]; then systemctl preset steth.service || :; fi
fi
