// The process that reads the configuration once and exits: see read-apart.ts.

import '../../cert-agent/base/without-locales.ts';
import { asSallyportError } from '../../cert-agent/base/errors.ts';
import type { Snapshot } from '../cluster/store.ts';
import { type Answer, rulesPerMessage, withObjects } from './read-apart.ts';

// A signal to the whole process group is for the sidecar.
process.on('SIGUSR1', () => {});
process.on('SIGHUP', () => {});

let sent = 0;
const all: Answer[] = [];
const objects = process.argv[3] === withObjects ? await received() : undefined;
for await (const one of answers(process.argv[2] ?? '', objects)) all.push(one);
// Messages in flight would be lost when the channel closes.
for (const one of all) process.send?.(one, () => ++sent === all.length && process.disconnect());

function received(): Promise<Snapshot> {
  return new Promise((resolve) => process.once('message', (message: Snapshot) => resolve(message)));
}

async function* answers(file: string, objects: Snapshot | undefined): AsyncGenerator<Answer> {
  try {
    // After the hook of the import above is in place.
    const { readConfiguration } = await import('./read.ts');
    const reading = await readConfiguration(file, undefined, objects);
    const { authorizationPolicies, ...rest } = reading.documents;
    let part: (typeof authorizationPolicies)[number][] = [];
    let rules = 0;
    for (const policy of authorizationPolicies) {
      part.push(policy);
      rules += policy.rules.length;
      if (rules < rulesPerMessage) continue;
      yield { policies: part };
      part = [];
      rules = 0;
    }
    yield { reading: { ...reading, documents: { ...rest, authorizationPolicies: part } } };
  } catch (error) {
    const { code, message, hint, problems } = asSallyportError(error, 'internal', 'cannot read the configuration');
    yield { code, message, detail: { hint, problems } };
  }
}
