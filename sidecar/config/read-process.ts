// The process that reads the configuration once and exits: see read-apart.ts.

import { asSallyportError } from '../../cert-agent/base/errors.ts';
import { readConfiguration } from './read.ts';
import { type Answer, rulesPerMessage } from './read-apart.ts';

// A signal to the whole process group is for the sidecar.
process.on('SIGUSR1', () => {});
process.on('SIGHUP', () => {});

let sent = 0;
const all: Answer[] = [];
for await (const one of answers(process.argv[2] ?? '')) all.push(one);
// Messages in flight would be lost when the channel closes.
for (const one of all) process.send?.(one, () => ++sent === all.length && process.disconnect());

async function* answers(file: string): AsyncGenerator<Answer> {
  try {
    const reading = await readConfiguration(file);
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
