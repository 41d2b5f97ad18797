// Names of tools and prompts, and URIs of resources, as rules compare them. An Allow rule compares them exactly,
// so that look-alikes do not match. A Deny rule matches all spellings that a server could read as the same.

import type { Match } from '../../policy/match.ts';

/** The kinds of things that a rule may name. */
export type Kind = 'tool' | 'prompt' | 'resource';

/** Compares one name. */
export type NameMatch = (name: Name) => boolean;

/** A name that many rules compare. What they compare is made once: a message may have many long names. */
export class Name {
  readonly kind: Kind;
  readonly text: string;
  #isPlain: boolean | undefined = undefined;
  #folded: string | undefined = undefined;

  constructor(kind: Kind, text: string) {
    this.kind = kind;
    this.text = text;
  }

  /** True for a name with one spelling: stars and defaults are about no other. */
  get isPlain(): boolean {
    this.#isPlain ??= this.kind === 'resource' ? isPlainUri(this.text) : plainName.test(this.text);
    return this.#isPlain;
  }

  /** One text for all spellings that a server could take for the same. */
  get folded(): string {
    this.#folded ??= fold(this.kind, this.text);
    return this.#folded;
  }
}

/** Visible ASCII, with single spaces inside. */
const plainName = /^[\x21-\x7e]+(?: [\x21-\x7e]+)*$/;

const uriPattern = /^([a-z][a-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)/;
const defaultPorts: Readonly<Record<string, string>> = { http: ':80', ws: ':80', https: ':443', wss: ':443' };

/** The characters of a URI, and braces for the variables of a template (RFC 6570). */
const uriCharacters = /^[\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7b\x7d\x7e]+$/;

/**
 * True for a URI (RFC 3986) that no server normalises to another: its scheme is in lower case, its path has no dot
 * segments and no empty ones, and no character is escaped that separates or needs no escape.
 */
export function isPlainUri(uri: string): boolean {
  if (!uriCharacters.test(uri)) return false;
  const [, scheme, authority, path] = uriPattern.exec(uri) ?? [];
  if (scheme === undefined) return false;
  if (!areEscapesPlain(uri)) return false;
  // Also behind `?` and `#`: servers that cut the scheme off and join paths read them as a part of the path.
  if (
    decoded(uri)!
      .normalize('NFKC')
      .slice(scheme.length + 1)
      .split(/[/?#;]/)
      .some(isDots)
  )
    return false;
  if (path!.split('/').some((segment, i, all) => segment === '' && i > 0 && i < all.length - 1)) return false;
  // RFC 8089: `file:/a` and `file://localhost/a` are the same file as `file:///a`.
  if (scheme === 'file') return authority === '';
  if (authority === undefined || authority === '') return true;
  const port = defaultPorts[scheme];
  const isWeb = port !== undefined;
  if (/:$/.test(authority) || (isWeb && (authority.includes('@') || authority.endsWith(port)))) return false;
  return !(isWeb && (/\.(?::\d+)?$/.test(authority) || authority !== authority.toLowerCase()));
}

function isDots(segment: string): boolean {
  // Windows drops spaces at the end.
  return /^\.\.? *$/.test(segment);
}

/** An escape without two hexadecimal digits, or of a letter, digit, dot, dash, tilde, slash, percent or control. */
const oddEscape = /%(?![0-9a-f]{2})|%(?:[01][0-9a-f]|2[5def]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5[cf]|7[ef])/i;

function areEscapesPlain(uri: string): boolean {
  return !oddEscape.test(uri) && decoded(uri) !== undefined;
}

function decoded(uri: string): string | undefined {
  try {
    return decodeURIComponent(uri);
  } catch {
    return undefined;
  }
}

function fold(kind: Kind, name: string): string {
  const text = kind === 'resource' ? (decoded(name) ?? name).replace(/[?#].*$/s, '').replace(/(?<=.)\/$/, '') : name;
  return text.normalize('NFKC').toLowerCase().trim();
}

/** The names of a rule's operation. Undefined if it names none: the rule then applies to all. */
export function compileNames(
  operation: {
    readonly tools?: readonly string[] | undefined;
    readonly prompts?: readonly string[] | undefined;
    readonly resources?: readonly string[] | undefined;
  },
  action: 'Allow' | 'Deny',
): NameMatch | undefined {
  const { tools, prompts, resources } = operation;
  if (tools === undefined && prompts === undefined && resources === undefined) return undefined;
  const compile = action === 'Allow' ? compileAllowed : compileDenied;
  const matches: Readonly<Record<Kind, NameMatch>> = {
    tool: compile(tools ?? [], 'tool'),
    prompt: compile(prompts ?? [], 'prompt'),
    resource: compile(resources ?? [], 'resource'),
  };
  return (name) => matches[name.kind](name);
}

function compileAllowed(patterns: readonly string[]): NameMatch {
  const exact = new Set(patterns.filter((one) => !isStarred(one)));
  const starred = patterns.filter(isStarred).map((one) => compileStar(one));
  return (name) => exact.has(name.text) || (starred.length > 0 && name.isPlain && matchesOne(starred, name.text));
}

function compileDenied(patterns: readonly string[], kind: Kind): NameMatch {
  const exact = new Set(patterns.filter((one) => !isStarred(one)).map((one) => fold(kind, one)));
  const starred = patterns.filter(isStarred).map((one) => compileStar(foldPattern(kind, one)));
  return ({ folded }) => exact.has(folded) || matchesOne(starred, folded) || matchesOne(starred, `${folded}/`);
}

function matchesOne(patterns: readonly Match[], text: string): boolean {
  return patterns.some((match) => match(text));
}

function isStarred(pattern: string): boolean {
  return pattern.startsWith('*') || pattern.endsWith('*');
}

/** A star at one end; a lone star matches every name, also an empty one. */
function compileStar(pattern: string): Match {
  if (pattern === '*') return () => true;
  if (pattern.startsWith('*')) return (name) => name.endsWith(pattern.slice(1));
  return (name) => name.startsWith(pattern.slice(0, -1));
}

/** Without the ending that `fold` removes: a prefix may end in a slash. */
function foldPattern(kind: Kind, pattern: string): string {
  const text = kind === 'resource' ? (decoded(pattern) ?? pattern) : pattern;
  return text.normalize('NFKC').toLowerCase();
}

/** Allow rules compare methods exactly, and Deny rules without case. */
export function compileMethods(patterns: readonly string[] | undefined, action: 'Allow' | 'Deny'): Match | undefined {
  if (patterns === undefined) return undefined;
  const match = (action === 'Allow' ? compileAllowed : compileDenied)(patterns, 'tool');
  return (method) => match(new Name('tool', method));
}
