// The demo as a process, its page as a browser shows it, and its README as a reader takes it: every command, in order,
// on free ports.

import { spawnSync } from 'node:child_process';
import { globSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { nextCommands } from '../../examples/two-services/demo/next.ts';
import { findPorts, withPorts } from '../../examples/two-services/demo/ports.ts';
import { chromium, startBrowser } from '../fixtures/chromium.ts';
import { type Child, type Owner, startProcess, tempDir, until } from '../fixtures/process.ts';
import { patternOf, readBlocks, runBlocks, runShell } from '../fixtures/shell.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const example = join(root, 'examples', 'two-services');

const steps = [
  'the page of web, whose app calls orders',
  'allowed: GET, by Host',
  'allowed: GET, as with http_proxy',
  'allowed: GET, by the port of the upstream',
  'the same with a forbidden method: DELETE',
  'the reason, as the operator sees it',
  'reports: a valid certificate, no rule',
  'no certificate',
  "web's name, certified by another CA",
  'a user without a token',
  'a user with a token signed by another key',
  'a user with a good token: web knows the user',
  'a user who is not a clerk, refused by web',
  'a user with over 10 requests a minute',
  'a policy is added: reports may read',
  'reports is revoked',
  'both certificates rotate under load',
];

const missing = ['bash', 'curl'].filter((name) => spawnSync(name, ['--version']).status !== 0);
const skip = missing.length === 0 ? false : `there is no ${missing.join(' and no ')} here`;

// Each has processes and ports of its own. Some thirty of them at once take their time beside other tests.
t.jobs = 3;

t.test('the demo does what it should, and --keep leaves it running until the printed command', { skip }, async (t) => {
  const tmp = tempDir(t);
  const demo = startDemo(t, tmp, '--keep');
  t.equal(await demo.exited, 0, demo.stdout() + demo.stderr());
  const lines = demo.stdout().split('\n');
  for (const name of steps) {
    t.match(
      lines.find((line) => line.startsWith(`ok      ${name}  `)),
      /expected .+ got ./,
      name,
    );
  }
  t.equal(lines.filter((line) => /^(ok|FAILED) /.test(line)).length, steps.length, 'no other step does');
  t.match(demo.stdout(), / 0 failed of \d{2,}, /);
  const next = lines.filter((line) => /^ {2}(curl|http_proxy|npx)\b/.test(line));
  t.equal(next.length, 10);
  next.push(...nextCommands.map(([command]) => command).filter((command) => !command.startsWith('npm run demo')));
  for (const line of next) t.match(await runShell(t, line), { code: 0 }, line);
  const noBrowser = chromium === undefined ? 'there is no chromium here' : false;
  await t.test("the demo's page works in a browser", { skip: noBrowser }, (t) => checkPage(t, urlIn(demo)));
  const stopped = await runShell(t, lines.find((line) => line.startsWith('  kill ')) ?? 'false');
  t.equal(stopped.code, 0, `${stopped.output} of ${demo.stdout().slice(-2000)}`);
  for (const pid of pidsIn(demo)) await until(() => !isRunning(pid), `process ${pid} to end`);
  t.same(demoDirsIn(tmp), []);
});

t.test('Ctrl-C leaves nothing behind', async (t) => {
  const tmp = tempDir(t);
  const demo = startDemo(t, tmp);
  await demo.waitFor(/started the CA/);
  t.equal(await demo.stop('SIGINT'), 130);
  t.same(pidsIn(demo).filter(isRunning), []);
  t.same(demoDirsIn(tmp), []);
});

t.test('the commands of the README do what it says', { skip }, async (t) => {
  const ports = await findPorts();
  const clone = tempDir(t);
  const copy = join(clone, 'examples', 'two-services');
  // What makes a certificate is the clone's own.
  symlinkSync(join(root, 'cert-agent'), join(clone, 'cert-agent'));
  for (const name of globSync(['*.{ts,yaml,html}', 'policies/*.yaml', 'gateway/*.yaml'], { cwd: example })) {
    mkdirSync(dirname(join(copy, name)), { recursive: true });
    writeFileSync(join(copy, name), withPorts(readFileSync(join(example, name), 'utf8'), ports));
  }
  const blocks = readBlocks(withPorts(readFileSync(join(example, 'README.md'), 'utf8'), ports));
  // A reader looks at what went wrong; here every command has to go well.
  const { code, output, printed } = await runBlocks(t, blocks, clone);
  t.equal(code, 0, output);
  for (const [index, { commands, expected }] of blocks.entries())
    for (const line of expected) t.match(printed[index], patternOf(line), `after ${commands}`);
  t.same(readdirSync(copy).includes('run'), false, 'the last command removes what the others created');
});

/** Everything that the page says of a finished tour, and what its buttons get. */
async function checkPage(t: Tap, url: string): Promise<void> {
  const browser = await startBrowser(t);
  await browser.open(url);
  const read = (selector: string): Promise<unknown> =>
    browser.evaluate(`[...document.querySelectorAll('${selector}')].map((one) => one.textContent)`);
  await until(async () => /did what it should/.test(String(await read('#verdict'))), 'the end of the tour');
  t.same(await read('#steps td:nth-child(2)'), steps);
  t.same(
    await read('#steps .mark'),
    steps.map(() => 'ok'),
  );
  const shown: string[] = [];
  const way = ['user', 'gateway', 'web-sidecar', 'web', 'orders-sidecar', 'orders'];
  for (const [button, status, hops, body] of [
    ['none', '401 Unauthorized', 2, /www-authenticate: Bearer .*Jwt is missing$/s],
    ['forged', '401 Unauthorized', 2, /Jwt verification fails$/],
    ['guest', '403 Forbidden', 3, /RBAC: access denied$/],
    ['clerk', '200 OK', 6, /orders for ada: a lantern/],
    ['many', '10 \u00d7 200, 2 \u00d7 429', 2, /retry-after: \d+\n.*rate limited$/s],
  ] as const) {
    await browser.evaluate(`document.querySelector('[data-ask=${button}]').click()`);
    shown.unshift(status);
    await until(async () => ((await read('.answer')) as string[]).length === shown.length, `the answer to ${button}`);
    t.same(await read('.answer strong'), shown, button);
    t.match(((await read('.answer pre')) as string[])[0], body, button);
    const end = `document.querySelector('[data-place=${way[hops - 1]}]').dataset.state`;
    const state = status === '200 OK' ? 'arrived' : 'refused';
    await until(async () => (await browser.evaluate(end)) === state, `${way[hops - 1]} to be ${state}`);
  }
  t.same(browser.complaints, []);
}

/** What of a tap test the page's check needs. */
type Tap = Owner & Pick<typeof t, 'same' | 'match'>;

function urlIn(demo: Child): string {
  return /^In a browser: (http:\S+)$/m.exec(demo.stdout())?.[1] ?? 'no URL was printed';
}

function startDemo(t: Owner, tmp: string, ...args: string[]): Child {
  const demo = startProcess(t, process.execPath, [join(example, 'demo.ts'), ...args], { env: { TMPDIR: tmp } });
  t.teardown(() => {
    for (const pid of pidsIn(demo).filter(isRunning)) process.kill(pid, 'SIGKILL');
  });
  return demo;
}

function pidsIn(demo: Child): number[] {
  return [...demo.stdout().matchAll(/\(pid (\d+)\)/g)].map(([, pid]) => Number(pid));
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

function demoDirsIn(directory: string): string[] {
  return readdirSync(directory).filter((name) => name.startsWith('sallyport-demo-'));
}
