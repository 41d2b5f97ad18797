// The `sallyport` program and its commands. A command imports its modules when it runs, so that `sallyport inspect`
// does not load the proxy, nor the proxy the CA (test/layers.test.ts checks this).

import '../cert-agent/base/heap.ts';
import { Command } from 'commander';
import { errnoOf } from '../cert-agent/base/errors.ts';
import { fitHelp } from './cli/help.ts';
import { exitCodes, exitCodesText } from './cli/terminal.ts';
import { readVersion } from './cli/version.ts';

/** One file per command, by its name. Each returns its commander command and imports its modules lazily. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  ca: () => import('./cli/ca.ts').then((file) => file.caCommand()),
  agent: () => import('./cli/agent.ts').then((file) => file.agentCommand()),
  sidecar: () => import('./cli/sidecar.ts').then((file) => file.sidecarCommand()),
  gateway: () => import('./cli/gateway.ts').then((file) => file.gatewayCommand()),
  exec: () => import('./cli/exec.ts').then((file) => file.execCommand()),
  status: () => import('./cli/status.ts').then((file) => file.statusCommand()),
  doctor: () => import('./cli/doctor.ts').then((file) => file.doctorCommand()),
  denials: () => import('./cli/denials.ts').then((file) => file.denialsCommand()),
  why: () => import('./cli/why.ts').then((file) => file.whyCommand()),
  check: () => import('./cli/check.ts').then((file) => file.checkCommand()),
  policy: () => import('./cli/policy.ts').then((file) => file.policyCommand()),
  openapi: () => import('./cli/openapi.ts').then((file) => file.openapiCommand()),
  crs: () => import('./cli/crs.ts').then((file) => file.crsCommand()),
  inject: () => import('./cli/inject.ts').then((file) => file.injectCommand()),
  webhook: () => import('./cli/webhook.ts').then((file) => file.webhookCommand()),
  explain: () => import('./cli/explain.ts').then((file) => file.explainCommand()),
  schema: () => import('./cli/schema.ts').then((file) => file.schemaCommand()),
  inspect: () => import('./cli/inspect.ts').then((file) => file.inspectCommand()),
  completion: () => import('./cli/completion.ts').then((file) => file.completionCommand(loadAll)),
};

/** Options that are answered without any command. */
const versionFlags: ReadonlySet<string | undefined> = new Set(['-V', '--version']);

/** Runs the program with the arguments of `argv` (node and script first). Sets the exit code and never throws. */
export async function run(argv: readonly string[]): Promise<void> {
  const program = new Command('sallyport')
    .description('A zero-trust sidecar: SPIFFE identities, mutual TLS and an allow-list in Istio’s own YAML.')
    .version(readVersion(), '-V, --version')
    .showHelpAfterError('(add --help for the options and an example)')
    .showSuggestionAfterError()
    // What follows a command is the command's: `exec` passes it on.
    .enablePositionalOptions()
    // An app that runs under `exec` gives the exit code.
    .addHelpText('afterAll', ({ command }) => (command.name() === 'exec' ? '' : `\n${exitCodesText}`))
    .exitOverride();
  fitHelp(program);
  process.stdout.on('error', endQuietly);
  // Only the one that is asked for, if it is one: the rest are for the help, and for suggestions.
  for (const load of wanted(argv[2])) program.addCommand(withOverride(await load()));
  try {
    await program.parseAsync([...argv]);
  } catch (error) {
    // commander has printed its message. Help and version exit with 0, misuse with our code.
    const code = typeof error === 'object' && error !== null && 'exitCode' in error ? error.exitCode : 1;
    process.exitCode = code === 0 ? exitCodes.ok : exitCodes.usage;
  }
}

/** The commands to load for a first argument. */
function wanted(first: string | undefined): readonly (() => Promise<Command>)[] {
  if (versionFlags.has(first)) return [];
  return first !== undefined && Object.hasOwn(commands, first) ? [commands[first]!] : Object.values(commands);
}

/**
 * The reader of our output has closed the pipe (`| head`). The output is incomplete, so neither 0 nor 1 would be
 * correct: the exit code is that of a program killed by SIGPIPE.
 */
function endQuietly(error: Error): void {
  if (errnoOf(error) !== 'EPIPE') throw error;
  process.exit(128 + 13);
}

/** All commands, for the script that completes them. */
function loadAll(): Promise<readonly Command[]> {
  return Promise.all(Object.values(commands).map((load) => load()));
}

/** commander does not apply exitOverride to commands that were built elsewhere. */
function withOverride(command: Command): Command {
  fitHelp(command);
  command.exitOverride().showHelpAfterError('(add --help for the options and an example)');
  askForNeeded(command);
  for (const inner of command.commands) withOverride(inner);
  return command;
}

/**
 * Mandatory options are missed after unknown ones were found, and not before, as commander does: a misspelt option
 * would be reported as a missing one.
 */
function askForNeeded(command: Command): void {
  const needed = command.options.filter(({ mandatory }) => mandatory);
  if (needed.length === 0) return;
  for (const option of needed) option.makeOptionMandatory(false);
  command.hook('preAction', () => {
    const missing = needed.find((option) => command.getOptionValue(option.attributeName()) === undefined);
    if (missing === undefined) return;
    command.error(`error: required option '${missing.flags}' not specified`, { exitCode: exitCodes.usage });
  });
}

if (import.meta.main) await run(process.argv);
