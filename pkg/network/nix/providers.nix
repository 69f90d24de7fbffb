# The namespaces deployment.<name> that belong to the providers of machines.
[ "azure" "container" "digitalOcean" "droplet" "ec2" "exec" "gce" "hetzner" "hetznerCloud" "libvirtd" "packet" "sandbox" "virtualbox" ]
