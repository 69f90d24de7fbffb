package network

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// A mentions is what the text of a Nix file says it may use of the world besides
// files. A program cannot see an evaluator use them, so what is mentioned counts as used.
type mentions struct {
	env      []string // variables, of getEnv with a literal name
	unlocked []string // fetches without a hash or revision, each with its line
	other    string   // what else, with its line, has a value of the moment; empty: nothing

	withBuiltins bool
}

// marks are in each file that mentions anything.
var marks = [][]byte{[]byte("getEnv"), []byte("maybeEnv"), []byte("currentTime"), []byte("fetchTarball"), []byte("fetchGit"), []byte("fetchTree"),
	[]byte("fetchMercurial"), []byte("getFlake"), []byte("__fetchurl"), []byte("builtins.fetchurl"), []byte("(builtins)"), []byte("with builtins"),
	[]byte("builtins.exec"), []byte("__exec"), []byte("mportNative"), []byte("builtins.${"), []byte(`builtins."`), []byte("getAttr"), []byte(" builtins"), []byte("=builtins"), []byte("(builtins")}

// mentioned reads a Nix file.
func mentioned(text []byte) mentions {
	if !slices.ContainsFunc(marks, func(m []byte) bool { return bytes.Contains(text, m) }) {
		return mentions{}
	}
	tokens, ok := nixTokens(text)
	m := &mentions{}
	if !ok {
		m.say(0, "what cannot be read as Nix")
	}
	for i := range tokens {
		m.token(tokens, i)
	}
	return *m
}

func (m *mentions) say(line int, what string) {
	if m.other == "" {
		m.other = fmt.Sprintf("%s, line %d", what, line)
	}
}

// token looks at tokens[i].
func (m *mentions) token(tokens []token, i int) {
	at := func(i int) token {
		if i < 0 || i >= len(tokens) {
			return token{}
		}
		return tokens[i]
	}
	t, before, after := at(i), at(i-1), at(i+1)
	name := strings.TrimPrefix(t.text, "__")
	ofBuiltins := before.text == "." && at(i-2).is("builtins")
	switch {
	case t.kind == tokenString:
		switch name { // builtins."getEnv", getAttr "getEnv" builtins
		case "getEnv", "currentTime", "fetchTarball", "fetchGit", "fetchTree", "fetchMercurial", "getFlake", "exec", "importNative":
			if before.text == "." || before.is("getAttr") || after.is("builtins") {
				m.say(t.line, "builtins."+name)
			}
		}
		return
	case t.kind != tokenName:
		return
	case after.text == "=" || before.text == "?" || formal(before, after):
		return // somebody else's name, or the question whether there is one
	}
	switch name {
	case "getEnv", "maybeEnv":
		switch {
		case after.kind == tokenString:
			m.env = append(m.env, after.text)
		case inherited(tokens, i), name == "getEnv" && maybeEnv(tokens, i):
		default:
			m.say(t.line, name+" of a computed name")
		}
	case "currentTime":
		m.say(t.line, name)
	case "exec", "importNative":
		if ofBuiltins || t.text != name {
			m.say(t.line, "builtins."+name)
		}
	case "builtins":
		computed := at(i + 2)
		if before.text != "." && (after.text == "." && computed.kind == tokenOther && (computed.text == "${" || computed.text == `"`) || gotten(tokens, i)) {
			m.say(t.line, "a builtin of a computed name")
		}
		if before.text != "." && after.text != "." && after.text != "?" && !before.is("with") &&
			!(before.text == "(" && at(i-2).is("inherit")) && !inherited(tokens, i) &&
			!(before.kind == tokenString && at(i-2).is("getAttr")) {
			m.say(t.line, "builtins as a value")
		}
		// What comes without its set is taken for a builtin in the rest of the file.
		m.withBuiltins = m.withBuiltins || before.is("with") || before.text == "(" && at(i-2).is("inherit")
	case "fetchTarball", "fetchGit", "fetchTree", "fetchMercurial", "getFlake", "fetchurl":
		global := before.text != "." && name != "fetchurl"
		if (ofBuiltins || global || t.text != name || m.withBuiltins) && !inherited(tokens, i) && !locked(tokens[i+1:]) {
			m.unlocked = append(m.unlocked, fmt.Sprintf("%s, line %d", name, t.line))
		}
	}
}

// gotten tells whether tokens[i] is the set that getAttr is to have a computed
// name of: a variable, or what is in parentheses.
func gotten(tokens []token, i int) bool {
	i--
	if i > 0 && tokens[i].kind == tokenName {
		return tokens[i-1].is("getAttr")
	}
	if i < 0 || tokens[i].text != ")" {
		return false
	}
	i = opening(tokens, i)
	return i > 0 && tokens[i-1].is("getAttr")
}

// opening returns the index of the parenthesis that tokens[i] closes, -1 where
// there is none.
func opening(tokens []token, i int) int {
	for depth := 0; i >= 0; i-- {
		switch t := tokens[i]; {
		case t.kind != tokenOther:
		case t.text == ")":
			depth++
		case t.text == "(":
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// formal tells whether a name between these is an argument of a function that
// takes a set: { a, b ? 1 }.
func formal(before, after token) bool {
	return (before.text == "{" || before.text == ",") && (after.text == "," || after.text == "?" || after.text == "}")
}

// inherited tells whether tokens[i] is a name of inherit: it is mentioned again
// where it is used.
func inherited(tokens []token, i int) bool {
	for i--; i >= 0; i-- {
		switch t := tokens[i]; {
		case t.is("inherit"):
			return true
		case t.text == ")":
			i = opening(tokens, i)
			return i > 0 && tokens[i-1].is("inherit")
		case t.kind != tokenName:
			return false
		}
	}
	return false
}

// maybeEnv tells whether tokens[i], getEnv, is the one in nixpkgs' lib.maybeEnv,
// which has the name as its argument: maybeEnv = name: default: let value =
// builtins.getEnv name. Its callers are looked at as those of getEnv are.
func maybeEnv(tokens []token, i int) bool {
	from := max(0, i-16)
	for j := i - 1; j >= from; j-- {
		if tokens[j].is("maybeEnv") {
			return j+3 < i && tokens[j+1].text == "=" && tokens[j+3].text == ":" && i+1 < len(tokens) &&
				tokens[i+1].kind == tokenName && tokens[i+1].text == tokens[j+2].text
		}
	}
	return false
}

// locked tells whether tokens begin with a set that names what it will be.
func locked(tokens []token) bool {
	if len(tokens) == 0 || tokens[0].text != "{" {
		return false
	}
	depth := 0
	for i, t := range tokens {
		switch t.text {
		case "{", "${", "(", "[":
			depth++
		case "}", ")", "]":
			if depth--; depth == 0 {
				return false
			}
		case "sha256", "hash", "narHash", "rev":
			if depth == 1 && t.kind == tokenName && (i+1 < len(tokens) && tokens[i+1].text == "=" || inherited(tokens, i)) {
				return true
			}
		}
	}
	return false
}

// A token is a word of a Nix file.
type token struct {
	kind tokenKind
	text string // a string's without quotes, if nothing is computed in it
	line int
}

type tokenKind int

const (
	tokenOther  tokenKind = iota // punctuation; "\"" for a string with computed parts, which follow
	tokenName                    // also a keyword
	tokenString                  // with nothing computed in it, and no escapes
)

func (t token) is(name string) bool { return t.kind == tokenName && t.text == name }

// Character classes of the lexer.
func isAlpha(c byte) bool  { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func inName(c byte) bool   { return isAlpha(c) || isDigit(c) || c == '_' || c == '\'' || c == '-' }
func inScheme(c byte) bool { return isAlpha(c) || isDigit(c) || strings.IndexByte("+.-", c) >= 0 }
func inURI(c byte) bool {
	return isAlpha(c) || isDigit(c) || strings.IndexByte("%/?:@&=+$,_.!~*'-", c) >= 0
}
func inPath(c byte) bool { return isAlpha(c) || isDigit(c) || strings.IndexByte("._+-", c) >= 0 }

// span returns how many bytes of text from i on are of a class.
func span(text []byte, i int, class func(byte) bool) int {
	n := 0
	for i+n < len(text) && class(text[i+n]) {
		n++
	}
	return n
}

// word returns the length of the longest token that text begins with, and
// whether it is a name: the longest rule wins, as in Nix.
func word(text []byte) (n int, kind tokenKind) {
	n, kind = 1, tokenOther
	if c := text[0]; isAlpha(c) || c == '_' {
		n, kind = span(text, 0, inName), tokenName
	}
	if isAlpha(text[0]) { // http://example.org
		if k := span(text, 0, inScheme); k < len(text) && text[k] == ':' {
			if rest := span(text, k+1, inURI); rest > 0 && k+1+rest > n {
				n, kind = k+1+rest, tokenOther
			}
		}
	}
	// ./a, a/b, /a, ~/a, <a/b>
	k := span(text, 0, inPath)
	if text[0] == '~' || text[0] == '<' {
		k = 1
		if text[0] == '<' {
			k += span(text, 1, inPath)
		}
	}
	for k < len(text) && text[k] == '/' && span(text, k+1, inPath) > 0 {
		k += 1 + span(text, k+1, inPath)
		if k > n {
			n, kind = k, tokenOther
		}
	}
	return n, kind
}

// nixTokens divides Nix text as Nix does (libexpr/lexer.l), as far as finding
// names and strings needs it. It is false for text that ends within a string or a
// comment: that is no Nix.
func nixTokens(text []byte) (tokens []token, ok bool) {
	line := 1
	var closers []byte // what the braces that are open close: '}' code, '"' and '\'' a string's
	add := func(kind tokenKind, s string) { tokens = append(tokens, token{kind, s, line}) }
	take := func(n int) string {
		s := text[:n]
		line += bytes.Count(s, []byte("\n"))
		text = text[n:]
		return string(s)
	}
	// inString takes the rest of a string, up to its end or a computed part.
	inString := func(quote byte, opened bool) bool {
		begin := line
		var value strings.Builder
		plain := opened
		for len(text) > 0 {
			indented := quote == '\''
			switch {
			case !indented && text[0] == '"', indented && bytes.HasPrefix(text, []byte("''")) &&
				!bytes.HasPrefix(text, []byte("'''")) && !bytes.HasPrefix(text, []byte("''$")) && !bytes.HasPrefix(text, []byte(`''\`)):
				take(map[bool]int{false: 1, true: 2}[indented])
				if plain {
					tokens = append(tokens, token{tokenString, value.String(), begin})
				}
				return true
			case bytes.HasPrefix(text, []byte("${")):
				if opened {
					add(tokenOther, `"`)
				}
				take(2)
				add(tokenOther, "${")
				closers = append(closers, quote)
				return true
			case !indented && text[0] == '\\' && len(text) > 1, bytes.HasPrefix(text, []byte("$$")):
				plain = false
				take(2)
			case indented && bytes.HasPrefix(text, []byte(`''\`)) && len(text) > 3:
				plain = false
				take(4)
			case indented && (bytes.HasPrefix(text, []byte("'''")) || bytes.HasPrefix(text, []byte("''$"))):
				plain = false
				take(3)
			default:
				n := 1
				for n < len(text) && strings.IndexByte("\"'$\\", text[n]) < 0 {
					n++
				}
				value.Write(text[:n])
				take(n)
			}
		}
		return false
	}
	for len(text) > 0 {
		c := text[0]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			take(1)
		case c == '#':
			end := bytes.IndexAny(text, "\r\n")
			if end < 0 {
				return tokens, true
			}
			take(end)
		case bytes.HasPrefix(text, []byte("/*")):
			end := bytes.Index(text[2:], []byte("*/"))
			if end < 0 {
				return tokens, false
			}
			take(end + 4)
		case c == '"':
			take(1)
			if !inString('"', true) {
				return tokens, false
			}
		case bytes.HasPrefix(text, []byte("''")):
			take(2)
			if !inString('\'', true) {
				return tokens, false
			}
		case c == '{' || bytes.HasPrefix(text, []byte("${")):
			closers = append(closers, '}')
			add(tokenOther, take(map[bool]int{true: 1, false: 2}[c == '{']))
		case c == '}':
			add(tokenOther, take(1))
			if n := len(closers); n > 0 {
				quote := closers[n-1]
				closers = closers[:n-1]
				if quote != '}' && !inString(quote, false) {
					return tokens, false
				}
			}
		default:
			n, kind := word(text)
			add(kind, take(n))
		}
	}
	return tokens, true
}
