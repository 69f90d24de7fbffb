#!/bin/sh
# What NixOS says when no boot loader is enabled.
echo 'Warning: do not know how to make this configuration bootable; please enable a boot loader.' >&2
