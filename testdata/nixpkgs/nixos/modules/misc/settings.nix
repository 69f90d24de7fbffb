# Options that configurations often set and that change nothing here: the host
# keeps its own time zone, Nix, firewall and so on. README.md lists them.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; description = "Accepted, without effect in the stand-in."; };
  flag = option types.bool;
  words = option (types.listOf types.str) [ ];
  text = option types.lines "";
  set = option (types.attrsOf types.anything) { };
in
{
  options = {
    console = { font = option (types.nullOr (types.either types.str types.path)) null; keyMap = option (types.either types.str types.path) "us"; };
    documentation = { enable = flag true; nixos = { enable = flag true; extraModuleSources = option (types.listOf (types.either types.path types.str)) [ ]; }; man.enable = flag true; info.enable = flag true; doc.enable = flag true; };
    hardware = {
      enableRedistributableFirmware = flag false;
      enableAllFirmware = flag false;
      cpu.amd.updateMicrocode = flag false;
      cpu.intel.updateMicrocode = flag false;
    };
    i18n = { defaultLocale = option types.str "en_US.UTF-8"; supportedLocales = words; };
    nix = {
      enable = flag true;
      package = option (types.nullOr types.package) null;
      settings = set;
      extraOptions = text;
      nixPath = words;
      registry = set;
      gc = { automatic = flag false; dates = option (types.either types.str (types.listOf types.str)) "03:15"; options = option types.str ""; };
      optimise.automatic = flag false;
    };
    powerManagement = { enable = flag true; cpuFreqGovernor = option (types.nullOr types.str) null; };
    programs = {
      bash = { enable = flag true; interactiveShellInit = text; completion.enable = flag true; };
      mtr.enable = flag false;
      vim.enable = flag false;
      zsh.enable = flag false;
    };
    security = {
      acme = { acceptTerms = flag false; defaults = set; certs = set; };
      pam = { services = set; loginLimits = option (types.listOf types.attrs) [ ]; };
      polkit.enable = flag false;
      sudo = { enable = flag true; wheelNeedsPassword = flag true; extraRules = option (types.listOf types.anything) [ ]; extraConfig = text; };
    };
    services = {
      fail2ban.enable = flag false;
      fstrim.enable = flag false;
      journald.extraConfig = text;
      ntp.enable = flag false;
      qemuGuest.enable = flag false;
      resolved.enable = flag false;
      timesyncd.enable = flag true;
    };
    system.autoUpgrade = { enable = flag false; allowReboot = flag false; };
    time.timeZone = option (types.nullOr types.str) null;
    virtualisation.docker.enable = flag false;
    zramSwap.enable = flag false;
  };
}
