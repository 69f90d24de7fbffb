# Units, as files in /etc/systemd/system beside those of the host.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.systemd;
  list = description: mkOption { type = types.listOf types.str; default = [ ]; inherit description; };
  value = types.nullOr (types.oneOf [ types.bool types.int types.float types.str types.path types.package ]);
  section = mkOption {
    type = types.attrsOf (types.either value (types.listOf value));
    default = { };
    description = "Lines of this section of the unit.";
  };
  flag = default: description: mkOption { type = types.bool; inherit default description; };
  script = mkOption { type = types.lines; default = ""; description = "Shell commands that run then."; };

  common = {
    enable = flag true "Whether the unit is there.";
    description = mkOption { type = types.str; default = ""; description = "What the unit is."; };
    documentation = list "Where it is documented.";
    after = list "Units it starts after.";
    before = list "Units it starts before.";
    wants = list "Units it wants.";
    requires = list "Units it requires.";
    bindsTo = list "Units it stops with.";
    partOf = list "Units it stops and restarts with.";
    conflicts = list "Units it cannot run with.";
    wantedBy = list "Units that want it.";
    requiredBy = list "Units that require it.";
    unitConfig = section;
    restartTriggers = mkOption {
      type = types.listOf types.unspecified;
      default = [ ];
      description = "Values that restart it when they change.";
    };
  };
  service.options = common // {
    serviceConfig = section;
    environment = mkOption { type = types.attrsOf value; default = { }; description = "Its variables."; };
    path = mkOption { type = types.listOf (types.oneOf [ types.package types.str ]); default = [ ]; description = "Packages on its PATH."; };
    script = script;
    preStart = script;
    postStart = script;
    preStop = script;
    postStop = script;
    reload = script;
    startAt = mkOption { type = types.coercedTo types.str lib.singleton (types.listOf types.str); default = [ ]; description = "When a timer starts it."; };
    restartIfChanged = flag true "Whether a switch restarts it when it changed.";
    reloadIfChanged = flag false "Whether a switch reloads it instead.";
    stopIfChanged = flag true "Whether a switch stops it before and starts it after.";
  };

  show = v: if v == true then "true" else if v == false then "false" else toString v;
  lines = set: lib.concatStrings (lib.concatLists (lib.mapAttrsToList
    (name: v: map (v: "${name}=${show v}\n") (lib.filter (v: v != null) (lib.toList v))) set));
  unitSection = u: "[Unit]\n" + lines (
    lib.filterAttrs (_: v: v != "" && v != [ ]) {
      Description = u.description;
      Documentation = u.documentation;
      After = toString u.after;
      Before = toString u.before;
      Wants = toString u.wants;
      Requires = toString u.requires;
      BindsTo = toString u.bindsTo;
      PartOf = toString u.partOf;
      Conflicts = toString u.conflicts;
      X-Restart-Triggers = map toString u.restartTriggers;
    } // u.unitConfig
  );
  command = name: kind: text: "${pkgs.writeShellScript "unit-script-${lib.strings.sanitizeDerivationName name}-${kind}" "set -e\n${text}"}";
  serviceSection = name: s:
    let
      scripts = lib.filterAttrs (_: c: c.text != "") {
        ExecStart = { kind = "start"; text = s.script; };
        ExecStartPre = { kind = "pre-start"; text = s.preStart; };
        ExecStartPost = { kind = "post-start"; text = s.postStart; };
        ExecStop = { kind = "pre-stop"; text = s.preStop; };
        ExecStopPost = { kind = "post-stop"; text = s.postStop; };
        ExecReload = { kind = "reload"; text = s.reload; };
      };
      environment = { PATH = lib.concatStringsSep ":" (map (p: "${p}/bin") s.path ++ [ "/usr/sbin" "/usr/bin" "/sbin" "/bin" ]); } // s.environment;
    in
    "\n[Service]\n"
    + lib.concatStrings (lib.mapAttrsToList (n: v: "Environment=\"${n}=${show v}\"\n") (lib.filterAttrs (_: v: v != null) environment))
    + lib.optionalString s.reloadIfChanged "X-ReloadIfChanged=true\n"
    + lib.optionalString (!s.restartIfChanged) "X-RestartIfChanged=false\n"
    + lib.optionalString (!s.stopIfChanged) "X-StopIfChanged=false\n"
    + lines (lib.mapAttrs (_: c: command name c.kind c.text) scripts // s.serviceConfig);

  unitsOf = kind: text: lib.mapAttrs' (name: u: lib.nameValuePair "${name}.${kind}" { inherit u; text = unitSection u + text name u; });
  allUnits = lib.filterAttrs (_: x: x.u.enable) (
    unitsOf "service" serviceSection cfg.services
    // unitsOf "timer" (_: u: "\n[Timer]\n" + lines u.timerConfig) cfg.timers
    // unitsOf "socket" (_: u: "\n[Socket]\n" + lib.concatMapStrings (s: "ListenStream=${s}\n") u.listenStreams + lines u.socketConfig) cfg.sockets
    // unitsOf "path" (_: u: "\n[Path]\n" + lines u.pathConfig) cfg.paths
    // unitsOf "target" (_: _: "") cfg.targets
  );
  units = type: extra: mkOption {
    type = types.attrsOf (types.submodule { options = common // extra; });
    default = { };
    description = "The ${type}s.";
  };
in
{
  options.systemd = {
    package = mkOption { type = types.package; default = pkgs.systemd; description = "systemd itself."; };
    services = mkOption { type = types.attrsOf (types.submodule service); default = { }; description = "The services."; };
    timers = units "timer" { timerConfig = section; };
    sockets = units "socket" { socketConfig = section; listenStreams = list "Where it listens."; };
    paths = units "path" { pathConfig = section; };
    targets = units "target" { };
    tmpfiles.rules = list "Rules for systemd-tmpfiles.";
  };

  config = {
    systemd.targets.keys = { description = "Security Keys"; unitConfig.X-StopOnReconfiguration = true; };

    systemd.timers = lib.mapAttrs (_: s: {
      wantedBy = [ "timers.target" ];
      timerConfig.OnCalendar = s.startAt;
    }) (lib.filterAttrs (_: s: s.enable && s.startAt != [ ]) cfg.services);

    environment.etc = lib.mapAttrs' (name: x: lib.nameValuePair "systemd/system/${name}" { inherit (x) text; }) allUnits
      // lib.listToAttrs (lib.concatLists (lib.mapAttrsToList (name: x:
        let hook = kind: other: lib.nameValuePair "systemd/system/${other}.${kind}/${name}" { source = "/etc/systemd/system/${name}"; }; in
        map (hook "wants") x.u.wantedBy ++ map (hook "requires") x.u.requiredBy) allUnits))
      // lib.optionalAttrs (cfg.tmpfiles.rules != [ ]) {
        "tmpfiles.d/00-nixos.conf".text = lib.concatMapStrings (rule: rule + "\n") cfg.tmpfiles.rules;
      };

    assertions = lib.concatLists (lib.mapAttrsToList (name: s: [ {
      assertion = s.script == "" || !(s.serviceConfig ? ExecStart);
      message = "systemd.services.${name} has both script and serviceConfig.ExecStart";
    } ]) cfg.services);
  };
}
