// The environment variables that are read.

import type { Entry } from './entry.ts';

const entry = (name: string, description: string, ...facts: Entry['facts']): Entry => ({ name, description, facts });

/** One that stops a process from starting. */
const refused = (name: string, why: string): Entry => entry(name, `Refused: ${why}.`);

/** All of them. A change applies after a restart. */
export function environmentEntries(): readonly Entry[] {
  return [
    entry(
      'SALLYPORT_ADMIN',
      'The admin port that `sallyport status`, `why`, `denials`, `policy propose` and `policy shadow-report` ask, in place of `--admin`.',
      ['default', 'http://127.0.0.1:15000'],
    ),
    entry('SALLYPORT_CONFIG', 'sidecar.yaml or gateway.yaml, in place of `--config`.', [
      'example',
      'SALLYPORT_CONFIG=/etc/sallyport/sidecar.yaml',
    ]),
    entry('SALLYPORT_WORKERS', 'The number of processes, in place of `--workers`.', ['default', '1']),
    entry(
      'SALLYPORT_LOG_LEVEL',
      'The lowest level of log lines. Any other value counts as `info`. The access log is not concerned.',
      ['default', 'info'],
      ['bounds', 'one of trace, debug, info, warn, error, fatal, silent'],
    ),
    entry(
      'SALLYPORT_LOG_FORMAT',
      'The form of operational messages on standard error. By default text on a terminal, and JSON elsewhere. Any other value counts as `json`.',
      ['bounds', 'one of text, json'],
    ),
    entry('SALLYPORT_CA_PASSPHRASE', "The passphrase of the CA's key, where there is no `--passphrase-file`."),
    entry('NOTIFY_SOCKET', "systemd's socket, on which a process says that it is ready, waits or stops."),
    entry('PATH', 'Where `sallyport exec` finds the app, and where systemd-notify is found.'),
    entry('COLUMNS', 'The width for help, tables and errors where the output is no terminal. A terminal has its own.', [
      'example',
      'COLUMNS=40',
    ]),
    entry('NO_COLOR', 'Commands print no colours.'),
    entry('KUBERNETES_SERVICE_HOST', 'Tells `sallyport doctor` that it runs in a pod.'),
    entry('NODE_OPTIONS', 'Options of Node. Those that give access to the process, or are not known, are refused.'),
    refused('NODE_TLS_REJECT_UNAUTHORIZED', '0 disables the verification of certificates'),
    refused('NODE_DEBUG', 'it logs the traffic of the process'),
    refused('NODE_DEBUG_NATIVE', 'it logs the traffic of the process'),
    refused('NODE_PATH', 'it loads code'),
    refused('NODE_COMPILE_CACHE', 'outside of the installation, what is in it is run'),
    refused('NODE_REDIRECT_WARNINGS', 'it writes to a file of its own'),
    refused('OPENSSL_CONF', 'it changes cryptography'),
    refused('OPENSSL_MODULES', 'it loads code'),
  ];
}
