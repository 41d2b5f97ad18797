// The end of a wait: what came of a body meanwhile goes to the carrier that the exchange has now.

import type { Holding } from './ends.ts';
import type { Exchange } from './exchange.ts';
import type { Fields } from './message.ts';

/** Passes `pieces` on and drops them from `holder`. `ended` has the trailers if the body has ended. */
export function passHeld(
  holder: Holding,
  { carrier, downstream }: Exchange,
  pieces: readonly Buffer[],
  ended: Fields | undefined,
): void {
  if (carrier === undefined || carrier === holder) return;
  let more = true;
  for (const piece of pieces) more = carrier.requestData(piece);
  holder.drop();
  if (ended !== undefined) carrier.requestEnd(ended);
  else if (more) downstream.resume();
  else downstream.pause();
}
