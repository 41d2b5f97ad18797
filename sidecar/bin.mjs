#!/bin/sh
':' //; exec node --min-semi-space-size=4 "$0" "$@"
// The line above is for the shell, which begins Node with a young generation of 4 MB: V8 takes that from its command
// line only, and BusyBox's env cannot pass options on. For Node it is a string without effect.
//
// The `sallyport` command. Plain JavaScript that any Node of the last ten years parses, so that an old one prints a
// message instead of a syntax error. It imports nothing before it has checked the version and the environment.

// Before anything else: without a handler, SIGUSR1, which log rotation sends, opens Node's debugger and exposes all
// keys. Commands that write logs reopen them on this signal.
process.on('SIGUSR1', () => {});

const wanted = [24, 19];
const [major, minor] = process.versions.node.split('.').map(Number);
const door = openDoor(process.env, process.execArgv);

if (major < wanted[0] || (major === wanted[0] && minor < wanted[1])) {
  stop(
    `Node ${wanted.join('.')} or later is required, but this is ${process.versions.node}; in a clone, 'npm run setup' installs one, and 'node_modules/.bin/node sidecar/bin.mjs' runs with it`,
  );
} else if (door !== undefined) {
  stop(`${door}\n  hint: start sallyport without it; SECURITY.md lists what the environment may contain`);
} else {
  import('node:inspector')
    // The signal may have arrived before the first line of this file.
    .then((inspector) => inspector.url() !== undefined && inspector.close())
    .then(() => Promise.all([import('node:fs'), import('node:module')]))
    .then(([files, { enableCompileCache }]) => {
      // In a clone the source runs directly; the package contains only the build.
      const source = new URL('./cli.ts', import.meta.url);
      if (!files.existsSync(source)) return import(new URL('../dist/sidecar/cli.js', import.meta.url).href);
      // Stripping types takes most of the time of a command.
      const cache = decodeURIComponent(new URL('../node_modules/.cache/node', import.meta.url).pathname);
      if (isOnlyOurs(files, cache)) enableCompileCache(cache);
      return import(source.href);
    })
    .then(({ run }) => run(process.argv));
}

/** True if no other user can write there: what is in a compile cache is run. Makes the directory if there is none. */
function isOnlyOurs({ mkdirSync, statSync }, directory) {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const { uid, mode } = statSync(directory);
    return (mode & 0o022) === 0 && (uid === 0 || uid === process.getuid());
  } catch {
    return false;
  }
}

/** Exits at once: with --inspect the debugger is already listening. */
function stop(sentence) {
  process.stderr.write(`sallyport: ${sentence}\n`);
  process.exit(2);
}

/**
 * What in the environment gives access to this process or makes it log secrets; undefined if nothing does. This is a
 * list of allowed Node options: an unknown one is refused.
 */
function openDoor(env, execArgv) {
  const harmless =
    /^--(?:max-old-space-size|max-semi-space-size|min-semi-space-size|stack-trace-limit|stack-size|v8-pool-size|dns-result-order|disable-warning|no-warnings|warnings|no-deprecation|pending-deprecation|trace-warnings|trace-deprecation|trace-uncaught|enable-source-maps|disable-sigusr1|unhandled-rejections=(?:strict|throw)|use-system-ca|use-bundled-ca|max-http-header-size|expose-gc|experimental-strip-types|enable-fips|force-fips|secure-heap|secure-heap-min|throw-deprecation|jitless|network-family-autoselection|no-network-family-autoselection|network-family-autoselection-attempt-timeout)(?:=|$)/;
  // Node interprets quotes and backslashes; no harmless option needs them.
  if (/["'\\]/.test(env.NODE_OPTIONS || ''))
    return 'NODE_OPTIONS with quotes or backslashes is refused, because it cannot be checked';
  const given = (env.NODE_OPTIONS || '').split(/\s+/).map((one) => one.replaceAll('_', '-'));
  // A word without a leading dash is the value of the option before it. On the command line, which the operator
  // controls, only a debugger is refused.
  const bad =
    given.find((one) => one.startsWith('-') && !harmless.test(one)) ||
    execArgv.find((one) => /^--(?:inspect|debug|heapsnapshot-signal|report-on-signal)/.test(one));
  if (bad !== undefined)
    return `Node's option ${bad.split('=')[0]} may give others access to this process and is refused (NODE_OPTIONS or the command line)`;
  if (env.NODE_TLS_REJECT_UNAUTHORIZED === '0')
    return 'NODE_TLS_REJECT_UNAUTHORIZED=0 disables the verification of certificates and is refused';
  const traced = ['NODE_DEBUG', 'NODE_DEBUG_NATIVE'].find((name) => env[name]);
  if (traced !== undefined) return `${traced} logs the traffic of this process and is refused`;
  const code = ['NODE_PATH', 'OPENSSL_CONF', 'OPENSSL_MODULES', 'NODE_REDIRECT_WARNINGS'].find((name) => env[name]);
  const cache = env.NODE_COMPILE_CACHE;
  const own = decodeURIComponent(new URL('..', import.meta.url).pathname);
  if (cache && (!cache.startsWith(own) || cache.includes('/..')))
    return 'NODE_COMPILE_CACHE outside of this installation would run the code of others and is refused';
  if (code !== undefined) return `${code} loads code or changes cryptography and is refused`;
  return undefined;
}
