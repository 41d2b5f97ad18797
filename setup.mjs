// Brings a clone to where its commands run, and does nothing when it is there already. Plain JavaScript that old Node
// versions understand: it is what they run before the pinned Node is installed.
//
//   node setup.mjs          what the program needs: dependencies and the pinned Node
//   node setup.mjs dev      what builds, checks and tests it too: devDependencies
//   node setup.mjs test     the test runner's plugins too
//
// The pinned Node is the dependency of a workspace (pinned-node/): package-lock.json holds its hash, a first stage without
// devDependencies installs it, and users of the package do not.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, statSync, utimesSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.url));
const installed = join(root, 'node_modules', '.package-lock.json');
const testRunner = join(root, '.tap', 'plugins');
const pinned = join(root, 'node_modules', 'node', 'bin', 'node');
const path = `${join(root, 'node_modules', '.bin')}:${process.env.PATH}`;

if (process.platform === 'win32') stop('Sallyport runs on Linux and macOS; on Windows use WSL2.');
const stage = process.argv[2] ?? 'run';
if (!['run', 'dev', 'test'].includes(stage)) stop(`'node setup.mjs' takes 'dev' or 'test', not '${stage}'.`);
if (!isCurrent()) install();
else if (stage !== 'run' && !hasDevDependencies()) addDevDependencies();
checkPinnedNode();
if (stage === 'test' && !existsSync(testRunner)) buildTestRunner();

function isCurrent() {
  if (!existsSync(installed)) return false;
  return statSync(installed).mtimeMs >= statSync(join(root, 'package-lock.json')).mtimeMs;
}

function hasDevDependencies() {
  const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return Object.keys(devDependencies).every((name) => existsSync(join(root, 'node_modules', name, 'package.json')));
}

function install() {
  process.stderr.write('sallyport: installing dependencies (once) ...\n');
  // Said both ways: NODE_ENV=production would leave out what the tests need.
  npm('ci', stage === 'run' ? '--omit=dev' : '--include=dev');
}

/** Leaves in place what is installed: a demo may be running on it. The lock file was checked when that was installed. */
function addDevDependencies() {
  process.stderr.write('sallyport: installing what builds and tests need (once) ...\n');
  npm('install', '--no-save', '--include=dev');
}

function npm(command, ...options) {
  run(
    'npm',
    [command, ...options, '--no-audit', '--no-fund', '--loglevel=error'],
    `'npm ${command}' failed: is the package registry reachable?`,
  );
  // What the test runner was built with lay in node_modules and is gone.
  rmSync(testRunner, { recursive: true, force: true });
  // npm may leave the file with the time of its own lockfile; it is current as of now.
  const now = new Date();
  utimesSync(installed, now, now);
}

function checkPinnedNode() {
  const answer = spawnSync(pinned, ['--version'], { encoding: 'utf8' });
  if (answer.status === 0 && answer.stdout.startsWith('v24.')) return;
  stop(
    "the pinned Node is missing: npm ran with 'ignore-scripts', or has no build for this machine; run 'npm rebuild node --ignore-scripts=false' or use Node 24.19 or later yourself.",
  );
}

function buildTestRunner() {
  process.stderr.write('sallyport: preparing the test runner (once) ...\n');
  run('tap', ['build'], "'tap build' failed: is the package registry reachable?");
}

function run(command, args, sentence) {
  const done = spawnSync(command, args, {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, PATH: path },
  });
  if (done.status !== 0) stop(sentence);
}

function stop(sentence) {
  process.stderr.write(`sallyport: ${sentence}\n`);
  process.exit(2);
}
