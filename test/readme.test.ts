// The README's first real use is real: its configuration is read, and each of its commands exists with its options.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parseGatewaySettings } from '../sidecar/config/gateway-settings.ts';
import { readConfiguration } from '../sidecar/config/read.ts';
import { parseSettings } from '../sidecar/config/settings.ts';
import { runSallyport, tempDir } from './fixtures/process.ts';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

t.test('orders.yaml is good', async (t) => {
  const dir = tempDir(t);
  const yaml = /```yaml\n([\s\S]*?)```/.exec(readme)![1]!;
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'orders.yaml'), yaml);
  const { settings } = readConfiguration(join(dir, 'orders.yaml'));
  const more = [...readme.matchAll(/```yaml\n([\s\S]*?)```/g)][1]![1]!;
  writeFileSync(join(dir, 'more.yaml'), yaml + more);
  t.match(readConfiguration(join(dir, 'more.yaml')).settings, {
    trustDomainAliases: ['old.test'],
    numTrustedProxies: 1,
    extensionProviders: [{ name: 'my-authorizer', timeoutMs: 500 }],
    learn: { edges: 10_000 },
  });
  t.match(settings, {
    inbound: [{ port: 15_006, policyPort: 8080 }],
    upstreams: { web: { identity: 'spiffe://demo.test/ns/shop/sa/web' } },
  });
});

t.test('gateway.yaml, and all else that it knows, is good; so is what takes its word', async (t) => {
  const blocks = [...readme.matchAll(/```yaml\n([\s\S]*?)```/g)].map((match) => match[1]!);
  const block = (start: string): string => blocks.find((one) => one.startsWith(start))!;
  t.match(parseGatewaySettings(block('# gateway.yaml') + block('listeners: {'), 'gateway.yaml'), {
    numTrustedProxies: 1,
    gateway: {
      listeners: { 'default/my-api-gateway:8080': '127.0.0.1:18080' },
      redis: { url: 'rediss://redis.internal:6379' },
      securityHeaders: true,
    },
  });
  t.match(parseSettings(block('# orders.yaml') + block('gateways:'), 'orders.yaml'), {
    gateways: ['spiffe://demo.test/ns/default/sa/my-api-gateway'],
  });
});

t.test('every command has its help with an example, and knows the options that the README uses', async (t) => {
  const lines = [...readme.matchAll(/^npx sallyport (.*?)(?: +#.*)?$/gm)].map((match) => match[1]!);
  t.ok(lines.length >= 8);
  await Promise.all(
    lines.map(async (line) => {
      const words = line.split(/\s+/);
      const depth = words[0] === 'ca' ? (words[1] === 'token' ? 3 : 2) : words[0] === 'policy' ? 2 : 1;
      const command = words.slice(0, depth);
      const { code, stdout } = await runSallyport(t, [...command, '--help']);
      t.equal(code, 0, line);
      t.match(stdout, /Example/, `${command.join(' ')} --help shows an example`);
      for (const option of words.filter((word) => word.startsWith('--')))
        t.ok(stdout.includes(option), `${command.join(' ')} knows ${option}`);
    }),
  );
});
