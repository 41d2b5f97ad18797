// The engine beside Envoy's own RBAC filter: random rules in both, random requests to both, the same decisions. Runs if
// `envoy` is on PATH, and is skipped with a message if not; the rules are written for Envoy as Istio writes them.

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import t from 'tap';
import { clientOf } from '../../sidecar/exchange/facts.ts';
import { compilePolicies } from '../../sidecar/policy/compile.ts';
import { decide, policiesFor } from '../../sidecar/policy/decide.ts';
import { createFacts } from '../../sidecar/policy/facts.ts';
import { parseIp } from '../../sidecar/policy/ip.ts';
import { normalizePath } from '../../sidecar/policy/path.ts';
import { type FieldValues, isPermit, type Rule } from '../../sidecar/policy/policy.ts';
import { isTemplate } from '../../sidecar/policy/template.ts';
import { scope } from '../fixtures/policy.ts';
import { freePort, startProcess, tempDir, until } from '../fixtures/process.ts';
import { createRandom } from '../fixtures/random.ts';

const skip = spawnSync('envoy', ['--version']).status === 0 ? false : 'there is no envoy on PATH';
const ruleCount = 200;
const requestsPerRule = 15;
const { seed, next: random, pick } = createRandom();
const some = <T>(list: readonly T[]): T[] => Array.from({ length: random() < 0.5 ? 1 : 2 }, () => pick(list));

type Json = Record<string, unknown>;

// -- Istio's rules in Envoy's terms -----------------------------------------------------------------------------------

function stringMatch(value: string, ignoreCase = false): Json {
  if (value === '*') return { safe_regex: { regex: '.+' } };
  if (value.startsWith('*')) return { suffix: value.slice(1), ignore_case: ignoreCase };
  if (value.endsWith('*')) return { prefix: value.slice(0, -1), ignore_case: ignoreCase };
  return { exact: value, ignore_case: ignoreCase };
}

function header(name: string, value: string, ignoreCase = false): Json {
  return {
    header: value === '*' ? { name, present_match: true } : { name, string_match: stringMatch(value, ignoreCase) },
  };
}

function cidr(value: string): Json {
  const [address = '', length] = value.split('/');
  return { address_prefix: address, prefix_len: Number(length ?? (address.includes(':') ? 128 : 32)) };
}

const typed = (name: string, config: Json = {}): Json => ({
  '@type': `type.googleapis.com/envoy.extensions.${name}`,
  ...config,
});

function path(value: string): Json {
  if (!isTemplate(value)) return { url_path: { path: stringMatch(value) } };
  const template = value.replaceAll('{*}', '*').replace('{**}', '**');
  return {
    uri_template: {
      name: 'template',
      typed_config: typed('path.match.uri_template.v3.UriTemplateMatchConfig', { path_template: template }),
    },
  };
}

const inEnvoy: Readonly<Record<string, (value: string) => Json>> = {
  hosts: (value) => header(':authority', value, true),
  methods: (value) => header(':method', value),
  paths: path,
  ports: (value) => ({ destination_port: Number(value) }),
  ipBlocks: (value) => ({ direct_remote_ip: cidr(value) }),
  remoteIpBlocks: (value) => ({ remote_ip: cidr(value) }),
};

/** `kind` is Envoy's name for the members of a list of permissions, or of principals. */
function anyOf(kind: 'rules' | 'ids', list: Json[], negated: boolean): Json {
  const any = { [kind === 'rules' ? 'or_rules' : 'or_ids']: { [kind]: list } };
  return negated ? { [kind === 'rules' ? 'not_rule' : 'not_id']: any } : any;
}

function clause(kind: 'rules' | 'ids', fields: FieldValues): Json[] {
  return Object.entries(fields).map(([field, values]) => {
    const negated = /^not[A-Z]/.test(field);
    const plain = negated ? field.charAt(3).toLowerCase() + field.slice(4) : field;
    return anyOf(kind, values.map(inEnvoy[plain]!), negated);
  });
}

function toEnvoy({ from = [], to = [], when = [] }: Rule): Json {
  const principals = from.flatMap((one) => clause('ids', one));
  for (const { values = [], notValues = [] } of when) {
    if (values.length > 0)
      principals.push(
        anyOf(
          'ids',
          values.map((value) => header('x-tenant', value)),
          false,
        ),
      );
    if (notValues.length > 0)
      principals.push(
        anyOf(
          'ids',
          notValues.map((value) => header('x-tenant', value)),
          true,
        ),
      );
  }
  const permissions = to.flatMap((one) => clause('rules', one));
  return {
    permissions: [permissions.length === 0 ? { any: true } : { and_rules: { rules: permissions } }],
    principals: [principals.length === 0 ? { any: true } : { and_ids: { ids: principals } }],
  };
}

/** One listener; a request's field `x-case` selects the rule that evaluates it. */
function configuration(rules: readonly Rule[], port: number): Json {
  const routes = rules.map((rule, index) => ({
    match: { prefix: '/', headers: [{ name: 'x-case', string_match: { exact: String(index) } }] },
    direct_response: { status: 200 },
    typed_per_filter_config: {
      'envoy.filters.http.rbac': typed('filters.http.rbac.v3.RBACPerRoute', {
        rbac: { rules: { action: 'ALLOW', policies: { rule: toEnvoy(rule) } } },
      }),
    },
  }));
  const manager = typed('filters.network.http_connection_manager.v3.HttpConnectionManager', {
    stat_prefix: 'x',
    normalize_path: true,
    use_remote_address: false,
    xff_num_trusted_hops: 1,
    route_config: { virtual_hosts: [{ name: 'all', domains: ['*'], routes }] },
    http_filters: [
      { name: 'envoy.filters.http.rbac', typed_config: typed('filters.http.rbac.v3.RBAC') },
      { name: 'envoy.filters.http.router', typed_config: typed('filters.http.router.v3.Router') },
    ],
  });
  const filters = [{ name: 'envoy.filters.network.http_connection_manager', typed_config: manager }];
  const address = { socket_address: { address: '127.0.0.1', port_value: port } };
  return { static_resources: { listeners: [{ name: 'in', address, filter_chains: [{ filters }] }] } };
}

// -- rules and requests -----------------------------------------------------------------------------------------------

function randomFields(port: number, names: readonly string[]): FieldValues[] | undefined {
  const values: Readonly<Record<string, readonly string[]>> = {
    hosts: ['a.test', 'A.TEST', '*.test', 'a*', '*', 'b.test:80', '*b*'],
    methods: ['GET', 'PUT', 'P*', '*T', '*', '*U*'],
    paths: ['/', '/a', '/a/b', '/a*', '*b', '*', '*a*', '/a/*', '/a/{*}', '/{*}/b', '/a/{**}', '/a/{**}/'],
    ports: [String(port), '9090'],
    ipBlocks: ['127.0.0.1', '127.0.0.0/8', '10.0.0.0/8', '::/0'],
    remoteIpBlocks: ['10.0.0.0/8', '192.0.2.1', '127.0.0.1', 'fd00::/8'],
  };
  const fields: Record<string, string[]> = {};
  for (const name of names) {
    if (random() < 0.4) fields[name] = some(values[name]!);
    if (random() < 0.13) fields[`not${name.charAt(0).toUpperCase()}${name.slice(1)}`] = some(values[name]!);
  }
  return Object.keys(fields).length === 0 ? undefined : [fields];
}

function randomRule(port: number): Rule {
  const from = randomFields(port, ['ipBlocks', 'remoteIpBlocks']);
  const to = randomFields(port, ['hosts', 'methods', 'paths', 'ports']);
  const values = ['one', 'o*', '*e', '*', 'one,two'];
  const kind = random();
  const when = [
    {
      key: 'request.headers[X-Tenant]',
      ...(kind < 0.7 ? { values: some(values) } : {}),
      ...(kind >= 0.6 ? { notValues: some(values) } : {}),
    },
  ];
  return { ...(from && { from }), ...(to && { to }), ...(random() < 0.4 && { when }) };
}

interface Asked {
  readonly method: string;
  readonly path: string;
  readonly host: string;
  readonly headers: Readonly<Record<string, string>>;
}

function randomRequest(): Asked {
  const forwardedFor = pick([
    ...[undefined, '10.1.1.1', '10.1.1.1, 10.9.9.9', '203.0.113.1, 192.0.2.1, 10.9.9.9'],
    ...['fd00::1, 1.1.1.1', 'junk, 10.0.0.1', '10.2.2.2,127.0.0.1'],
  ]);
  const tenant = pick([undefined, 'one', 'two', '', 'onex', 'xone']);
  return {
    method: pick(['GET', 'PUT', 'POST', 'CUSTOM']),
    path: pick(['/', '/a', '/a/b', '/b', '/xa*', '/a/', '/a/b/c', '/a//', '/a?x=b', '/a/../b', '/%61', '/a/%62?q']),
    host: pick(['a.test', 'A.test', 'b.test:80', 'b', 'xb*']),
    headers: {
      ...(forwardedFor === undefined ? {} : { 'x-forwarded-for': forwardedFor }),
      ...(tenant === undefined ? {} : { 'x-tenant': tenant }),
    },
  };
}

function askEnvoy(port: number, index: number, { method, path: target, host, headers }: Asked): Promise<number> {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, method, path: target, agent: false };
    const asked = request({ ...options, headers: { ...headers, host, 'x-case': String(index) } }, (answer) => {
      answer.resume();
      resolve(answer.statusCode ?? 0);
    });
    asked.on('error', reject);
    asked.end();
  });
}

t.test(`Envoy decides the same (SEED=${seed})`, { skip }, async (t) => {
  const [port, dir] = [await freePort(), tempDir(t)];
  const rules = Array.from({ length: ruleCount }, () => randomRule(port));
  const file = join(dir, 'envoy.json');
  writeFileSync(file, JSON.stringify(configuration(rules, port)));
  startProcess(t, 'envoy', ['-c', file, '--base-id', String(1 + (process.pid % 30_000)), '-l', 'error']);
  const first = randomRequest();
  await until(() => askEnvoy(port, 0, first).catch(() => undefined), 'envoy to answer', 20_000);

  const loopback = parseIp('127.0.0.1')!;
  let [compared, allowed] = [0, 0];
  for (const [index, rule] of rules.entries()) {
    const policy = {
      name: 'p',
      namespace: 'shop',
      action: 'ALLOW',
      dryRun: false,
      rules: [rule],
      file: 'x',
      line: 1,
    } as const;
    const peer = policiesFor(compilePolicies([policy], scope), null);
    for (let i = 0; i < requestsPerRule; i++) {
      const asked = randomRequest();
      const status = await askEnvoy(port, index, asked);
      // Requests that its codec refuses are not evaluated.
      if (status === 400) continue;
      const facts = createFacts({
        method: asked.method,
        path: normalizePath(asked.path).split('?', 1)[0]!,
        host: asked.host,
        port,
        sourceIp: loopback,
        remoteIp: clientOf(asked.headers['x-forwarded-for'], 1) ?? loopback,
        headers: asked.headers,
      });
      const ours = isPermit(decide(peer, facts));
      compared++;
      if (ours) allowed++;
      if (ours !== (status === 200)) t.fail(`Envoy ${status}, ours ${ours}: ${JSON.stringify({ rule, asked })}`);
    }
  }
  t.ok(compared > 1000 && allowed > compared / 20, `${compared} compared, ${allowed} allowed`);
});
