#!/bin/sh
# The tests run against real brokers: amqtt comes with the virtual environment, mosquitto with the system.
PATH="$PATH:/usr/sbin:/usr/local/sbin"
command -v mosquitto >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing mosquitto with apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mosquitto; } \
        >/dev/null 2>&1 && command -v mosquitto >/dev/null 2>&1 && exit 0
    echo "apt-get could not install mosquitto." >&2
fi
echo "The tests need the mosquitto broker. Install it ('sudo apt-get install mosquitto') and run make test again." >&2
exit 1
