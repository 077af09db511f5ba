if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then systemctl try-restart steth.service || :; fi
fi
# rpm removes only folders that it was given, and was given files.
if [ "$1" -eq 0 ]; then
    for folder in doc/steth/examples doc/steth/docs doc/steth steth/grafana steth/prometheus steth licenses/steth; do
        rmdir "/usr/share/$folder" 2>/dev/null || :
    done
fi
