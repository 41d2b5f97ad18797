// PostgreSQL serves with the files of an agent, and psql verifies it by name (sslmode=verify-full).

import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, chownSync, copyFileSync, existsSync, globSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { endWithUs, freePort, type Owner, runSallyport, startSallyport, tempDir, until } from '../fixtures/process.ts';
import { haveCommand } from '../fixtures/tools.ts';

/** PostgreSQL does not run as root. */
function findUser(): { readonly uid?: number; readonly gid?: number } | undefined {
  if (process.getuid?.() !== 0) return {};
  try {
    const [uid, gid] = ['-u', '-g'].map((flag) => Number(execFileSync('id', [flag, 'postgres'], { stdio: 'pipe' })));
    return { uid, gid };
  } catch {
    return undefined;
  }
}

const user = findUser();
/** Debian keeps the server's programs apart. */
const bin = globSync('/usr/lib/postgresql/*/bin').at(-1) ?? '';
const server = existsSync(join(bin, 'initdb')) ? join(bin, '') : '';
const missing = !haveCommand('psql') || (server === '' && !haveCommand('initdb')) || user === undefined;
const skip = missing ? 'PostgreSQL is not installed, or there is no user for it' : false;

function run(
  command: string,
  args: readonly string[],
  as: object = {},
): Promise<{ code: number | null; text: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { ...as, stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (text += part.toString()));
    child.once('close', (code) => resolve({ code, text }));
  });
}

/** A database in a directory of its own, with the certificate of `out`; returns its port. */
async function startDatabase(t: Owner, out: string): Promise<number> {
  const { uid = process.getuid?.() ?? 0, gid = process.getgid?.() ?? 0 } = user ?? {};
  const [place, port] = [tempDir(t), await freePort()];
  const data = join(place, 'data');
  mkdirSync(data, { mode: 0o700 });
  for (const path of [place, data]) chownSync(path, uid, gid);
  const made = await run(join(server, 'initdb'), ['-D', data, '-U', 'app', '--auth', 'trust', '--no-sync'], {
    uid,
    gid,
    cwd: place,
  });
  if (made.code !== 0) throw new Error(made.text);
  for (const file of ['svid.pem', 'svid.key']) {
    copyFileSync(join(out, file), join(data, file));
    chmodSync(join(data, file), 0o600);
    chownSync(join(data, file), uid, gid);
  }
  writeFileSync(
    join(data, 'postgresql.auto.conf'),
    `listen_addresses = '127.0.0.1'\nport = ${port}\nunix_socket_directories = ''\nfsync = off
ssl = on\nssl_cert_file = 'svid.pem'\nssl_key_file = 'svid.key'\n`,
  );
  const child = spawn(join(server, 'postgres'), ['-D', data], { uid, gid, cwd: place, stdio: 'ignore' });
  endWithUs(child);
  t.teardown(async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGINT');
    await ended;
  });
  return port;
}

t.test('psql verifies a database by name', { skip, timeout: 120_000 }, async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const [token, out] = [join(tempDir(t), 'db.token'), join(tempDir(t), 'db')];
  t.match(await runSallyport(t, ['ca', 'dns', 'allow', '--dir', ca.directory, 'db.shop.test']), { code: 0 });
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/db', token, ['db.shop.test']);
  startSallyport(t, ['agent', '--ca', ca.url, '--ca-bundle', ca.bundleFile, '--token-file', token, '--out-dir', out]);
  await until(() => existsSync(join(out, 'svid.pem')), 'the SVID');
  const port = await startDatabase(t, out);
  const psql = (host: string) => {
    const target = `host=${host} hostaddr=127.0.0.1 port=${port} user=app dbname=postgres sslmode=verify-full`;
    return run('psql', [
      `${target} sslrootcert=${ca.bundleFile}`,
      '-Atc',
      'select ssl from pg_stat_ssl where pid = pg_backend_pid()',
    ]);
  };
  const answer = await until(
    async () => {
      const one = await psql('db.shop.test');
      return /refused|starting up/.test(one.text) ? false : one;
    },
    'the database',
    20_000,
  );
  t.match(answer, { code: 0, text: 't\n' });
  t.match(await psql('orders.shop.test'), {
    code: 2,
    text: /server certificate for "db\.shop\.test".* does not match host name/,
  });
});
