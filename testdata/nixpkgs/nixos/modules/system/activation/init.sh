#!/bin/sh
# What a boot starts: activate the system and note that it is the booted one.
systemConfig='@out@'
mkdir -p /run
ln -sfn "$systemConfig" /run/booted-system
exec "$systemConfig/activate"
