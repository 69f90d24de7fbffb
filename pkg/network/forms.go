package network

// Formats are the forms of networks: the tools whose files are read. Which form
// a file has is seen by its attributes, in nix/form.nix.
var Formats = []string{"nixops", "morph", "colmena", "nixus"}
