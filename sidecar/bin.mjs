#!/usr/bin/env node
// The `sallyport` command. Plain JavaScript that any Node of the last ten years parses, so that an old one gets a
// sentence instead of a syntax error. It imports nothing before it has looked at the version and at the environment.

// First of all: without a handler SIGUSR1, which log rotation sends, opens Node's debugger, and through it every key.
// Commands that write logs reopen them on it.
process.on('SIGUSR1', () => {});

const wanted = [24, 19];
const [major, minor] = process.versions.node.split('.').map(Number);
const door = openDoor(process.env, process.execArgv);

if (major < wanted[0] || (major === wanted[0] && minor < wanted[1])) {
  stop(
    `this is Node ${process.versions.node}, and ${wanted.join('.')} or later is needed; in a clone, 'npm run setup' brings one`,
  );
} else if (door !== undefined) {
  stop(`${door}\n  hint: start sallyport without it; SECURITY.md says what the environment may hold`);
} else {
  import('node:inspector')
    // The signal may have come before the first line of this file.
    .then((inspector) => inspector.url() !== undefined && inspector.close())
    .then(() => import('node:fs'))
    .then(({ existsSync }) => {
      // In a clone the source runs as it is; the package holds only what the build made of it.
      const source = new URL('./cli.ts', import.meta.url);
      return import(existsSync(source) ? source.href : new URL('../dist/sidecar/cli.js', import.meta.url).href);
    })
    .then(({ run }) => run(process.argv));
}

/** At once: with --inspect the debugger listens already. */
function stop(sentence) {
  process.stderr.write(`sallyport: ${sentence}\n`);
  process.exit(2);
}

/**
 * What of the environment opens a way into this process, or makes it write secrets down; undefined when nothing does. Options of
 * Node are named that may stand there: one that this list has never heard of is refused.
 */
function openDoor(env, execArgv) {
  const harmless =
    /^--(?:max-old-space-size|max-semi-space-size|min-semi-space-size|stack-trace-limit|stack-size|v8-pool-size|dns-result-order|disable-warning|no-warnings|warnings|no-deprecation|pending-deprecation|trace-warnings|trace-deprecation|trace-uncaught|enable-source-maps|disable-sigusr1|unhandled-rejections=(?:strict|throw)|use-system-ca|use-bundled-ca|max-http-header-size|expose-gc|experimental-strip-types|enable-fips|force-fips|secure-heap|secure-heap-min|throw-deprecation|jitless|network-family-autoselection|no-network-family-autoselection|network-family-autoselection-attempt-timeout)(?:=|$)/;
  // Node takes quotes and backslashes apart; nothing that is harmless needs them.
  if (/["'\\]/.test(env.NODE_OPTIONS || ''))
    return 'NODE_OPTIONS with quotes or backslashes is not read, and is refused';
  const given = (env.NODE_OPTIONS || '').split(/\s+/).map((one) => one.replaceAll('_', '-'));
  // What does not begin with a dash is the value of the option before it. On the command line, which the operator
  // writes, only a debugger is refused.
  const bad =
    given.find((one) => one.startsWith('-') && !harmless.test(one)) ||
    execArgv.find((one) => /^--(?:inspect|debug|heapsnapshot-signal|report-on-signal)/.test(one));
  if (bad !== undefined)
    return `Node's option ${bad.split('=')[0]} may open this process to others, and is refused (NODE_OPTIONS or the command line)`;
  if (env.NODE_TLS_REJECT_UNAUTHORIZED === '0')
    return 'NODE_TLS_REJECT_UNAUTHORIZED=0 switches off the verification of certificates, and is refused';
  const traced = ['NODE_DEBUG', 'NODE_DEBUG_NATIVE'].find((name) => env[name]);
  if (traced !== undefined) return `${traced} writes what passes through this process to its log, and is refused`;
  const code = ['NODE_PATH', 'OPENSSL_CONF', 'OPENSSL_MODULES', 'NODE_REDIRECT_WARNINGS'].find((name) => env[name]);
  if (code !== undefined) return `${code} loads code, or changes cryptography, from elsewhere, and is refused`;
  return undefined;
}
