// The help of every command on a terminal of any width: no word is broken, and no column gets narrower than its text.

import { type Command, Help } from 'commander';
import { reflow, widthOf, wrap } from '../../cert-agent/base/wrap.ts';

/** Narrower than this, descriptions stand below what they describe. */
const leastForColumns = 70;

const write = (stream: NodeJS.WriteStream, text: string): void => {
  const width = widthOf(stream);
  stream.write(width === undefined ? text : reflow(text, width));
};

/** Makes the help and the messages of a command fit. Commands within it need their own call. */
export function fitHelp(command: Command): void {
  command.configureOutput({
    getOutHelpWidth: () => widthOf(process.stdout) ?? 80,
    getErrHelpWidth: () => widthOf(process.stderr) ?? 80,
    writeOut: (text) => write(process.stdout, text),
    writeErr: (text) => write(process.stderr, text),
  });
  command.configureHelp({
    formatItem(term, termWidth, description, helper) {
      const width = helper.helpWidth ?? 80;
      if (width >= leastForColumns) return Help.prototype.formatItem.call(helper, term, termWidth, description, helper);
      return [...wrap(term, width, 2, 6), ...(description === '' ? [] : wrap(description, width, 6))].join('\n');
    },
  });
}
