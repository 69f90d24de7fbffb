# nx.mk: deploy a network with make. A Makefile says which network, and includes this:
#
#	NETWORK = network.nix
#	include /usr/local/share/nx/nx.mk
#
# Then there are plan, build, copy, deploy, deploy-HOST, keys, diff, status, rollback
# and destroy. HOSTS='web1 db' chooses hosts, with % for any characters: HOSTS=web%.
# With -k the other hosts go on when one fails.
#
# What each stage knows of a host is a file, which that of the next stage depends on:
#
#	.nx/drv/web1.jsonl  .nx/built/web1.jsonl  .nx/copied/web1.jsonl  .nx/active/web1.jsonl
#
# To have a stage done again, remove its file. Why a host failed is in NAME.error beside.
# It takes GNU make 4.3, jq and flock.

NETWORK ?= network.nix
HOSTS ?=
NX_HOSTS ?=
# More arguments: of all that read the network (-I, --arg, --state, …), of each tool, and
# of what the goals below run.
NX_FLAGS ?=
NX_PROVISION_FLAGS ?=
NX_EVAL_FLAGS ?=
NX_BUILD_FLAGS ?=
NX_COPY_FLAGS ?=
NX_ACTIVATE_FLAGS ?=
NX_PLAN_FLAGS ?=
NX_DIFF_FLAGS ?=
NX_STATUS_FLAGS ?=
NX_ROLLBACK_FLAGS ?=
NX_DESTROY_FLAGS ?=
# What deploy does: switch, boot or test.
NX_ACTION ?= switch
# The network is evaluated for every goal but these; a Makefile may add its own.
NX_WITHOUT += plan status rollback destroy help clean

nx-stage := $(dir $(lastword $(MAKEFILE_LIST)))nx-stage
nx-network = $(patsubst %,-f %,$(NETWORK)) $(NX_FLAGS)
nx-on = $(foreach h,$(subst %,*,$(HOSTS)),--on '$h')
nx-chosen = $(if $(HOSTS),$(filter $(HOSTS),$(NX_HOSTS)),$(NX_HOSTS))
nx-files = $(or $(wildcard $(NX_HOSTS:%=.nx/$1/%.jsonl)),$(error no host is in .nx/$1 yet: see what make build says))

.PHONY: plan build copy deploy keys diff status rollback destroy nx-always

plan:
	nx-provision plan $(nx-network) $(NX_PLAN_FLAGS) $(nx-on)
	@[ ! -e .nx/hosts.jsonl ] || nx-eval -q $(nx-network) $(NX_EVAL_FLAGS) $(nx-on) .nx/hosts.jsonl | nx-build --dry-run $(NX_BUILD_FLAGS)

# Which hosts there are decides what depends on what, so it is found out while make
# reads makefiles, and make begins anew when it has changed: not to be evaluated again
# then. And -n, -q and -t make makefiles all the same, but must make no machines.
nx-again := $(MAKE_RESTARTS)$(foreach f,n q t,$(findstring $f,$(filter-out -%,$(firstword $(MAKEFLAGS)))))
ifeq ($(filter-out $(NX_WITHOUT),$(or $(MAKECMDGOALS),$(.DEFAULT_GOAL))),)
-include .nx/hosts.mk
else ifneq ($(strip $(nx-again)),)
-include .nx/hosts.mk
else
include .nx/hosts.mk
.nx/hosts.mk: nx-always | .nx/hosts.jsonl
	@rm -f .nx/built/*.error .nx/copied/*.error .nx/active/*.error # of the make before
	nx-eval $(nx-network) $(NX_EVAL_FLAGS) $(nx-on) --out-dir .nx/drv --if-changed .nx/hosts.jsonl || [ $$? = 1 ]
	@ls .nx/drv | sed -n -e 's/\.jsonl$$//p' -e t -e 's/\.error$$//p' | sort -u | xargs echo NX_HOSTS = >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# A host that cannot be made has an error here, and its evaluation then; so this is
# no file of -o, which is written only when all is well.
.nx/hosts.jsonl: nx-always
	@mkdir -p .nx
	nx-provision $(nx-network) $(NX_PROVISION_FLAGS) >$@.new || [ $$? = 1 ]
	@mv $@.new $@
endif

# One process does a stage for all hosts of a goal that need it: they share what can be
# shared, and --canary and --batch see all of them. What is not made for one of these
# goals, as by deploy-web1, is made for its host alone.
nx-scope = $*
build copy deploy: nx-scope = $(nx-chosen)
build: $(nx-chosen:%=.nx/built/%.jsonl)
copy: $(nx-chosen:%=.nx/copied/%.jsonl)
deploy: $(nx-chosen:%=.nx/active/%.jsonl)

.PHONY: $(NX_HOSTS:%=deploy-%)
$(NX_HOSTS:%=deploy-%): deploy-%: .nx/active/%.jsonl

$(NX_HOSTS:%=.nx/drv/%.jsonl): .nx/drv/%.jsonl:
	@jq -r '"nx.mk: error: \(.name): \(.error.message)"' .nx/drv/$*.error >&2; exit 1
$(NX_HOSTS:%=.nx/built/%.jsonl): .nx/built/%.jsonl: .nx/drv/%.jsonl
	@$(nx-stage) built $* '$(nx-scope)'
$(NX_HOSTS:%=.nx/copied/%.jsonl): .nx/copied/%.jsonl: .nx/built/%.jsonl
	@$(nx-stage) copied $* '$(nx-scope)'
$(NX_HOSTS:%=.nx/active/%.jsonl): .nx/active/%.jsonl: .nx/copied/%.jsonl
	@$(nx-stage) active $* '$(nx-scope)'
export NX_BUILT = nx-build $(NX_BUILD_FLAGS)
export NX_COPIED = nx-copy $(nx-network) $(NX_COPY_FLAGS)
export NX_ACTIVE = nx-activate $(NX_ACTION) $(NX_ACTIVATE_FLAGS)

# The texts of keys are in no record: nothing tells that they have changed, and this brings them.
keys: copy
	jq -c 'select(.kind != "host")' .nx/hosts.jsonl | nx-copy keys $(nx-network) $(NX_COPY_FLAGS) $(nx-on) --out-dir .nx/keys - $(call nx-files,copied)

diff: copy
	nx-activate diff $(NX_DIFF_FLAGS) $(nx-on) $(call nx-files,copied)

# These two ask the hosts of the last make, whatever the network says by now.
status:
	nx-activate status $(NX_STATUS_FLAGS) $(nx-on) $(call nx-files,built)

rollback:
	rm -f $(nx-chosen:%=.nx/active/%.jsonl)
	nx-activate rollback $(NX_ROLLBACK_FLAGS) $(nx-on) --out-dir .nx/rollback $(call nx-files,built)

# What is on a host is gone with it.
destroy:
	nx-provision destroy $(NX_FLAGS) $(NX_DESTROY_FLAGS) $(nx-on) >/dev/null
	rm -f $(nx-chosen:%=.nx/copied/%.jsonl) $(nx-chosen:%=.nx/active/%.jsonl) $(if $(HOSTS),,.nx/hosts.jsonl .nx/hosts.mk)
