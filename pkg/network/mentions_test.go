package network

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMentioned(t *testing.T) {
	for _, test := range []struct {
		text, env, unlocked, other string
	}{
		{text: `{ a = 1; }`},
		{text: `builtins.getEnv "A"`, env: "A"},
		{text: `with builtins; getEnv /* b */ "A" + __getEnv "B"`, env: "A B"},
		{text: `# builtins.getEnv x
			/* getEnv y */ "getEnv z \${getEnv}" + ''getEnv ''${getEnv q} '''getEnv''`},
		{text: `"${builtins.getEnv "A"}${x "${builtins.getEnv "B"}"}"`, env: "A B"},
		{text: `''a ${"b" + builtins.getEnv "A"} ''$ $${getEnv "C"} ${builtins.getEnv "B"}''`, env: "A B"},
		{text: `let inherit (builtins) map getEnv; in getEnv "A"`, env: "A"},
		{text: `{ getEnv ? x, ... }: builtins ? getEnv`},
		{text: `{ getEnv = name: "x"; }`},
		{text: `builtins.getEnv name`, other: "getEnv of a computed name, line 1"},
		{text: "\n\nbuiltins.getEnv (\"A\")", other: "getEnv of a computed name, line 3"},
		{text: `builtins.getEnv "${"A"}"`, other: "getEnv of a computed name, line 1"},
		{text: `builtins.getEnv "A\n"`, other: "getEnv of a computed name, line 1"},
		{text: `builtins."get${"Env"}" "A"`, other: "a builtin of a computed name, line 1"},
		{text: `builtins.getAttr ("get" + "Env") builtins "A"`, other: "a builtin of a computed name, line 1"},
		{text: `let n = "getEnv"; in builtins.getAttr n builtins "A"`, other: "a builtin of a computed name, line 1"},
		{text: `builtins.getAttr "add" builtins 1 + builtins."add" 1 2`},
		{text: `let e = builtins.getEnv; in e "A"`, other: "getEnv of a computed name, line 1"},
		{text: `map builtins.getEnv [ "A" ]`, other: "getEnv of a computed name, line 1"},
		{text: `builtins."getEnv" "A"`, other: "builtins.getEnv, line 1"},
		{text: `builtins.getAttr "getEnv" builtins "A"`, other: "builtins.getEnv, line 1"},
		{text: `builtins.${n} "A"`, other: "a builtin of a computed name, line 1"},
		{text: `config.builtins.${n}`},
		{text: `builtins.attrValues builtins`, other: "builtins as a value, line 1"},
		{text: `f (builtins)`, other: "builtins as a value, line 1"},
		{text: `import ./x { inherit builtins; } // { a = builtins ? getEnv; b = with builtins; map; inherit (builtins) add; }`},
		{text: `{ maybeEnv = name: default: let value = builtins.getEnv name; in value; }`},
		{text: `{ maybeEnv = name: default: let value = builtins.getEnv other; in value; }`, other: "getEnv of a computed name, line 1"},
		{text: `lib.maybeEnv "A" "x"`, env: "A"},
		{text: `lib.maybeEnv x "x"`, other: "maybeEnv of a computed name, line 1"},
		{text: `builtins.currentTime`, other: "currentTime, line 1"},
		{text: `__currentTime`, other: "currentTime, line 1"},
		{text: `builtins.exec [ "x" ]`, other: "builtins.exec, line 1"},
		{text: `{ exec = "x"; } // { inherit (c) exec; }`},
		{text: `fetchTarball { url = "x"; sha256 = "y"; }`},
		{text: `builtins.fetchTarball { inherit url sha256; }`},
		{text: `builtins.fetchTarball { inherit (spec) url sha256; }`},
		{text: `builtins.fetchTarball { url = "x"; }`, unlocked: "fetchTarball, line 1"},
		{text: `builtins.fetchTarball "x"`, unlocked: "fetchTarball, line 1"},
		{text: `builtins.fetchTarball { url = f { sha256 = 1; }; }`, unlocked: "fetchTarball, line 1"},
		{text: `builtins.fetchGit { url = "x"; rev = "y"; }`},
		{text: `fetchGit ./.`, unlocked: "fetchGit, line 1"},
		{text: `builtins.getFlake "nixpkgs"`, unlocked: "getFlake, line 1"},
		{text: `pkgs.fetchurl { url = "x"; } + fetchurl "y" + pkgs.fetchgit z`},
		{text: `builtins.fetchurl "x"`, unlocked: "fetchurl, line 1"},
		{text: `let inherit (builtins) fetchurl; in fetchurl "x"`, unlocked: "fetchurl, line 1"},
		{text: `{ url = http://example.org/a#getEnv
			; x = ./getEnv + <getEnv/x> + ~/getEnv + a'b.getEnv "A"; }`, env: "A"},
		{text: `x: x.y/* getEnv a */`},
		{text: `foldl' (a: b: getEnv "A") "it''s" [ ]`, env: "A"},
		{text: `"getEnv`, other: "what cannot be read as Nix, line 0"},
		{text: `getEnv "A" /* open`, env: "A", other: "what cannot be read as Nix, line 0"},
		{text: `"${"getEnv"`, other: ""},
	} {
		m := mentioned([]byte(test.text))
		if got := strings.Join(m.env, " "); got != test.env || strings.Join(m.unlocked, "; ") != test.unlocked || m.other != test.other {
			t.Errorf("%s\n mentions %q, %q, %q\nwant %q, %q, %q", test.text, got, m.unlocked, m.other, test.env, test.unlocked, test.other)
		}
	}
}

// All of a nixpkgs can be read, and what is mentioned in it is known.
func TestMentionedInNixpkgs(t *testing.T) {
	for _, tree := range trees(t) {
		var env []string
		err := filepath.WalkDir(tree, func(file string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".nix") {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if _, ok := nixTokens(text); !ok {
				t.Errorf("%s is not read to its end", file)
			}
			env = append(env, mentioned(text).env...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(env, "IN_NIX_SHELL") {
			t.Errorf("%s mentions %q", tree, env)
		}
	}
}

// What Nix reads as a name or string, wherever it stands, is found.
func FuzzNixTokens(f *testing.F) {
	for _, text := range []string{`a "b" ''c'' ${`, `"${x}"`, `''${"y"}''`, `./a/b <c/d> ~/e http://f#g`, `/* h */ # i`, `'' ''\n ''' ''$ $$ ''`, `"\" $${"`, "{ a = { }; }"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tokens, ok := nixTokens(text)
		for _, token := range tokens {
			if token.line < 1 || token.line > 1+strings.Count(string(text), "\n") {
				t.Errorf("%q: %v is on no line of it", text, token)
			}
		}
		// Behind a file that is read to its end, another is read as by itself.
		if ok {
			more, ok := nixTokens(append(slices.Clone(text), "\n getEnv \"A\""...))
			if n := len(more); ok && n >= 2 && (more[n-1].text != "A" || !more[n-2].is("getEnv")) && balanced(tokens) {
				t.Errorf("%q hides what is behind it: %v", text, more)
			}
		}
		mentioned(text)
	})
}

// balanced tells whether all braces are closed: behind an open one, } ends a string.
func balanced(tokens []token) bool {
	depth := 0
	for _, t := range tokens {
		switch t.text {
		case "{", "${":
			depth++
		case "}":
			depth--
		}
		if depth < 0 {
			return false
		}
	}
	return depth == 0
}
