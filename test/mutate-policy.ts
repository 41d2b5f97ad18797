// biome-ignore-all lint/suspicious/noTemplateCurlyInString: these are pieces of source
// Does some test notice when an operator of the policy engine is wrong? Each mutation is made in a copy of the sources,
// and the tests of the engine run there; one that they do not notice is printed. By hand: node test/mutate-policy.ts
// (two minutes).

import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

type Mutation = readonly [file: string, what: string, from: string, to: string];

const mutations: readonly Mutation[] = [
  ['match', 'exact', 'return (value) => value === wanted;', 'return (value) => value.startsWith(wanted);'],
  ['match', 'exact, one value', 'return (value) => value === only;', 'return (value) => value.endsWith(only!);'],
  ['match', 'exact, several', 'return (value) => exact.has(value);', 'return () => exact.size > 0;'],
  ['match', 'presence', "const present: Match = (value) => value !== '';", 'const present: Match = () => true;'],
  ['match', 'suffix', 'return (value) => value.endsWith(suffix);', 'return (value) => value.includes(suffix);'],
  ['match', 'prefix', 'return (value) => value.startsWith(prefix);', 'return (value) => value.includes(prefix);'],
  [
    'match',
    'leading star wins',
    "if (pattern.startsWith('*')) {\n    const suffix = pattern.slice(1);\n    return (value)",
    "if (pattern.startsWith('*') && !pattern.endsWith('*')) {\n    const suffix = pattern.slice(1);\n    return (value)",
  ],
  ['match', 'ignoring case', 'match(value.toLowerCase())', 'match(value)'],
  [
    'match',
    'principal presence',
    "if (pattern === '*') return present;\n  if (pattern.startsWith('*')) {\n    const suffix = pattern.slice(1);\n    const least",
    "if (pattern === '*') return () => true;\n  if (pattern.startsWith('*')) {\n    const suffix = pattern.slice(1);\n    const least",
  ],
  [
    'match',
    'principal prefix',
    'const prefix = `spiffe://${pattern.slice(0, -1)}`;',
    'const prefix = `spiffe://${pattern}`;',
  ],
  ['match', 'cluster.local', "td !== 'cluster.local' && ", ''],
  ['match', 'five parts', '(?:\\/[^/]*){4}$', '(?:\\/[^/]*){3,}$'],
  ['match', 'aliases', 'trustDomains.map((one) => (td', 'trustDomains.slice(0, 1).map((one) => (td'],
  ['match', 'namespace', '`/ns/${one}/`', '`/ns/${one}`'],
  ['match', 'namespace star', 'compileGlob(`*/ns/${one}/*`)', 'compileGlob(`*/ns/${one}*`)'],
  ['match', 'glob order', 'at = found + part.length;', 'at = found;'],
  ['match', 'account of its own namespace', 'compileServiceAccount(namespace, one)', "compileServiceAccount('', one)"],
  ['match', 'account end', "end === uri.length || (uri[end] === '/' && end + 1 < uri.length)", 'true'],
  ['match', 'account begin', "at === from || (uri[at - 1] === '/' && at - 1 > from)", 'true'],
  [
    'match',
    'trust domain exact',
    'return (uri) => uri.startsWith(`spiffe://${one}/`);',
    'return (uri) => uri.startsWith(`spiffe://${one}`);',
  ],
  ['match', 'trust domain prefix', 'trustDomainOf(uri).startsWith(one.slice(0, -1))', 'uri.includes(one.slice(0, -1))'],
  ['match', 'trust domain suffix', 'trustDomainOf(uri).endsWith(one.slice(1))', 'uri.endsWith(one.slice(1))'],
  [
    'match',
    'trust domain presence',
    "if (one === '*') return (uri) => uri !== '';",
    "if (one === '*') return () => true;",
  ],
  ['match', 'request principal split', "value.lastIndexOf('/')", "value.indexOf('/')"],
  [
    'match',
    'request principal presence',
    "if (value === '*') return [present, present];",
    "if (value === '*') return [present, () => true];",
  ],
  [
    'match',
    'request principal absent',
    'if (issuer === undefined || subject === undefined) return false;',
    "if (issuer === undefined || subject === undefined) return tests.some(([iss]) => iss(issuer ?? ''));",
  ],
  [
    'match',
    'any issuer',
    "[issuer === '*' ? present : compileOne(issuer), equal(subject)]",
    "[issuer === '*' ? present : compileOne(issuer), present]",
  ],
  [
    'match',
    'any subject',
    "[equal(issuer), subject === '*' ? present : compileOne(subject)]",
    "[present, subject === '*' ? present : compileOne(subject)]",
  ],
  ['match', 'suffix of the subject', 'return [present, compileOne(value)];', 'return [compileOne(value), present];'],
  ['match', 'prefix of the issuer', 'return [compileOne(value), present];', 'return [present, compileOne(value)];'],
  ['template', 'one segment is not empty', 'if (stop === at) return false;', ''],
  [
    'template',
    'one segment ends at a slash',
    'const stop = end === -1 ? path.length : end;',
    'const stop = path.length;',
  ],
  ['template', 'nothing follows', 'return at === path.length;', 'return true;'],
  ['template', 'the end of any', 'path.endsWith(after)', 'path.includes(after)'],
  ['template', 'any does not overlap its end', 'path.length - at >= after.length && ', ''],
  ['ip', 'family', 'ip.family !== family || ', ''],
  ['ip', 'first word', '(ip.a & masks[0]) >>> 0 !== a', 'false'],
  ['ip', 'last word', ' && (ip.d & masks[3]) >>> 0 === d', ''],
  ['ip', 'mask', '(0xffffffff << (32 - bits)) >>> 0', '(0xffffffff << (31 - bits)) >>> 0'],
  ['ip', 'mapped', 'c === 0xffff)', 'c === 0xfffe)'],
  [
    'attributes',
    'source.ip',
    'const sourceIp = address((facts) => facts.sourceIp);',
    'const sourceIp = address((facts) => facts.remoteIp);',
  ],
  [
    'attributes',
    'remote.ip',
    'const remoteIp = address((facts) => facts.remoteIp);',
    'const remoteIp = address((facts) => facts.sourceIp);',
  ],
  ['attributes', 'destination.ip', 'address((facts) => facts.destinationIp)', 'address((facts) => facts.sourceIp)'],
  ['attributes', 'absent address', 'return ip !== undefined && match(ip);', 'return ip === undefined || match(ip);'],
  ['attributes', 'port', '(facts) => facts.port === only', '(facts) => facts.port >= only!'],
  ['attributes', 'ports', 'wanted.has(facts.port)', 'wanted.size > 0'],
  [
    'attributes',
    'header presence',
    'value !== undefined && (any || match(value))',
    'any || (value !== undefined && match(value))',
  ],
  ['attributes', 'empty header', 'patterns.length === 0 ? [] : [compileStrings(patterns)]', '[]'],
  [
    'attributes',
    'claim list',
    'return Array.isArray(value) && value.some',
    'return Array.isArray(value) && value.every',
  ],
  ['attributes', 'nested claim', 'for (const step of path) {', 'for (const step of path.slice(0, 1)) {'],
  ['attributes', 'audience', "claimAttribute(['aud'])", "claimAttribute(['azp'])"],
  ['attributes', 'presenter', "claimAttribute(['azp'])", "claimAttribute(['aud'])"],
  ['facts', 'scope words', "new Set(['scope', 'permission', ...spaceDelimited])", 'new Set(spaceDelimited)'],
  ['compile', 'negation', '!== this.negated;', '&& true;'],
  ['compile', 'ALLOW on TCP', "this.#policy.action !== 'ALLOW' || ", 'true || '],
  ['compile', 'DENY on TCP', 'clause.filter(({ attribute }) => !attribute.httpOnly);', 'clause;'],
  ['compile', 'default action', "scope.defaultAction === 'allow' && ", ''],
  ['compile', 'an ALLOW policy in scope', "&& !attached.some((policy) => policy.action === 'ALLOW')", ''],
  ['policy', 'root namespace', 'policy.namespace !== rootNamespace && ', ''],
  ['policy', 'selector', '.every(([label, value])', '.some(([label, value])'],
  ['policy', 'targets', 'if (policy.targetRefs !== undefined) return false;', ''],
  ['decide', 'DENY first', 'if (denied !== undefined) return denied.verdict;', ''],
  [
    'decide',
    'namespaces anywhere',
    'matchAll(/\\/ns(?=\\/([^/]+)\\/)/g)',
    'matchAll(/^spiffe:\\/\\/[^/]+\\/ns(?=\\/([^/]+)\\/)/g)',
  ],
  ['decide', 'order', 'concerned.sort((a, b) => a.order - b.order);', ''],
  ['decide', 'peer conditions', 'if (!peerHolds(conditions, facts)) return undefined;', ''],
  [
    'decide',
    'peer sources',
    'if (peerHolds(source, facts)) left.push(withoutPeer(source));',
    'left.push(withoutPeer(source));',
  ],
  ['index-rules', 'first of two', 'if (best !== undefined && rule.order >= best.order) return best;', ''],
  ['index-rules', 'by method', 'if (root !== undefined) found = walk(root, facts, found);', ''],
  [
    'index-rules',
    'exact path',
    'if (at === path.length) return node.exact.length === 0 ? found : firstOf(node.exact, facts, found);',
    'if (at === path.length) return found;',
  ],
  [
    'index-rules',
    'prefix',
    'if (node.through.length > 0) found',
    'if (node === root && node.through.length > 0) found',
  ],
  [
    'index-rules',
    'sources and operations',
    'return holdsAny(shape.sources, facts, observer) && conditions && operations;',
    'return conditions && operations;',
  ],
  [
    'index-rules',
    'alternatives',
    'if (!holdsAll(clause, facts, observer)) continue;',
    'if (!holdsAll(clause, facts, observer)) return false;',
  ],
  ['path', 'dots', 'const resolved = resolveDots(decoded);', 'const resolved = decoded;'],
  ['path', 'NONE', "if (how === 'NONE') return target;", ''],
  ['path', 'backslash', ".replaceAll('\\\\', '/')", ''],
  ['path', 'decoding', 'return /[A-Za-z0-9._~-]/.test(character) ? character : whole;', 'return whole;'],
  ['path', 'merging', "how === 'MERGE_SLASHES' || ", ''],
  ['path', 'decoding slashes', "if (slashes && (character === '/' || character === '\\\\')) return '/';", ''],
];

const root = fileURLToPath(new URL('..', import.meta.url));
const copy = mkdtempSync(join(tmpdir(), 'sallyport-mutations-'));
for (const name of ['cert-agent', 'sidecar', 'test', 'package.json'])
  cpSync(join(root, name), join(copy, name), { recursive: true });
symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
// The tables only: what a random comparison notices it may miss the next time.
const tests = ['fields', 'decide', 'path'].map((name) => `test/policy/${name}.test.ts`);
const { NODE_OPTIONS: _, ...env } = process.env;

/** Whether every test of the engine passes in the copy. */
function passes(): boolean {
  return tests.every((test) => spawnSync(process.execPath, [test], { cwd: copy, env, stdio: 'ignore' }).status === 0);
}

let missed = 0;
try {
  if (!passes()) throw new Error('the tests fail without any mutation');
  for (const [name, what, from, to] of mutations) {
    const file = join(copy, 'sidecar/policy', `${name}.ts`);
    const text = readFileSync(file, 'utf8');
    if (text.split(from).length < 2) throw new Error(`${name}.ts has no '${from}' any more: correct this list`);
    writeFileSync(
      file,
      text.replace(from, () => to),
    );
    if (passes()) {
      missed++;
      console.log(`NOT NOTICED  ${name}: ${what}`);
    }
    writeFileSync(file, text);
  }
} finally {
  rmSync(copy, { recursive: true, force: true });
}
console.log(`${mutations.length - missed} of ${mutations.length} mutations are noticed`);
process.exitCode = missed === 0 ? 0 : 1;
