// `--admin` and `--config` of the commands that ask a running process: one way to name it, in each of them.

import { type Command, Option } from 'commander';

/** Adds both. `whose` is 'the sidecar', for the help. */
export function withAdmin(command: Command, whose: string): Command {
  // SALLYPORT_CONFIG is not taken: who sets it has not chosen a file for this command, and SALLYPORT_ADMIN is the nearer one.
  const address = process.env['SALLYPORT_ADMIN'] ?? 'http://127.0.0.1:15000';
  return command
    .option('--admin <url>', `the admin address of ${whose}`, address)
    .addOption(
      new Option('--config <file>', `the file that ${whose} runs with, which names its admin port`).conflicts('admin'),
    );
}
