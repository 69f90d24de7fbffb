# Toy packages: each has the name and programs of the real one. A program is
# the host's own of that name, or waits where the real one would serve.
{ lib, lacking }:
final: prev:
let
  toy = pname: version: programs: final.stdenv.mkDerivation {
    inherit pname version;
    meta = { mainProgram = lib.head (lib.attrNames programs); description = "Toy ${pname}"; };
    buildCommand = "mkdir -p $out/bin\n" + lib.concatStrings (lib.mapAttrsToList (name: body:
      if body == null then "ln -s /usr/bin/${name} $out/bin/${name}\n"
      else ''
        printf '#!/bin/sh\n%s\n' ${lib.escapeShellArg body} > $out/bin/${name}
        chmod +x $out/bin/${name}
      '') programs);
  };
  hosts = names: lib.genAttrs names (_: null);
  # Nix is the host's own too, wherever its PATH finds that behind this package.
  nixes = names: lib.genAttrs names (name: ''
    IFS=:
    for dir in $PATH /usr/local/bin /usr/bin; do
      case $dir in /run/current-system/* | /nix/store/*) continue ;; esac
      if [ -x "$dir/${name}" ]; then exec "$dir/${name}" "$@"; fi
    done
    echo "${name}: this host has no Nix of its own" >&2
    exit 127'');
  daemon = name: { ${name} = "exec sleep infinity"; };
  linux = {
    kernel = final.runCommand "linux-6.18" { passthru.modDirVersion = "6.18.0"; } ''
      mkdir -p $out
      echo kernel > $out/${final.stdenv.hostPlatform.linux-kernel.target}
    '';
    inherit (final) stdenv;
  };
in
{
  hello = toy "hello" "2.12" { hello = "echo 'Hello, world!'"; };

  bash = toy "bash" "5.2" (hosts [ "bash" "sh" ]) // { shellPath = "/bin/bash"; };
  bashInteractive = final.bash;
  coreutils = toy "coreutils" "9.5" (hosts [ "cat" "chmod" "chown" "cp" "cut" "date" "dirname" "env" "head" "id" "install" "ln" "ls" "mkdir" "mktemp" "mv" "readlink" "rm" "rmdir" "sha256sum" "sleep" "sort" "stat" "sync" "tail" "test" "timeout" "touch" "tr" "true" "uname" "wc" ]);
  nix = toy "nix" "2.31" (nixes [ "nix" "nix-build" "nix-collect-garbage" "nix-copy-closure" "nix-daemon" "nix-env" "nix-hash" "nix-instantiate" "nix-store" ]);
  systemd = toy "systemd" "257" (hosts [ "journalctl" "loginctl" "systemctl" "systemd-run" "systemd-tmpfiles" ]) // { interfaceVersion = 2; };
  openssh = toy "openssh" "9.9" (hosts [ "ssh" "ssh-keygen" "sshd" ]);
  util-linux = toy "util-linux" "2.40" (hosts [ "flock" "mount" "umount" "mountpoint" "logger" ]);

  postgresql = toy "postgresql" "17" (daemon "postgres" // hosts [ "psql" ]);
  apacheHttpd = toy "apache-httpd" "2.4" (daemon "httpd");
  nginx = toy "nginx" "1.28" (daemon "nginx");
  redis = toy "redis" "8.0" (daemon "redis-server");

  inherit linux;
  linuxPackages = linux;
  linuxPackages_latest = linux;
} // lib.genAttrs [ "curl" "findutils" "git" "gnugrep" "gnused" "htop" "inotify-tools" "iproute2" "jq" "mtr" "python3" "rsync" "sudo" "tmux" "tree" "vim" "wget" ]
  (name: toy name "1.0" (hosts [ ({ findutils = "find"; gnugrep = "grep"; gnused = "sed"; inotify-tools = "inotifywait"; iproute2 = "ip"; }.${name} or name) ]))
// lib.genAttrs [ "busybox" "cacert" "docker" "emacs" "fetchFromGitHub" "fetchFromGitLab" "fetchgit" "fetchpatch" "fetchurl" "fetchzip" "gcc" "glibc" "glibcLocales" "gnumake" "go" "haskellPackages" "nodejs" "openssl" "perl" "perlPackages" "php" "python3Packages" "ruby" "rustPlatform" "substituteAll" "zsh" ]
  lacking
