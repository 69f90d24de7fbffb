# Added to the network, this breaks one of its machines: the option is misspelt.
{
  web2 = { ... }: { services.opnessh.enable = true; };
}
