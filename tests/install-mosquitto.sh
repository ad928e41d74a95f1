#!/bin/sh
# The tests run against real brokers: amqtt comes with the virtual environment, mosquitto with the system. Its
# mosquitto_pub and mosquitto_sub play the devices that only speak plain MQTT.
PATH="$PATH:/usr/sbin:/usr/local/sbin"
there() { command -v mosquitto >/dev/null 2>&1 && command -v mosquitto_sub >/dev/null 2>&1; }
there && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing mosquitto with apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        mosquitto mosquitto-clients; } >/dev/null 2>&1 && there && exit 0
    echo "apt-get could not install mosquitto." >&2
fi
echo "The tests need the mosquitto broker. Install it ('sudo apt-get install mosquitto mosquitto-clients') and run make test again." >&2
exit 1
