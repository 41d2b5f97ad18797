// What waits in this process's memory because its reader is slower than its writer, all connections together. Each place is
// bounded for itself; this bounds their sum.

let held = 0;
let inSockets = 0;

/** `bytes` wait (or, negative, no longer do). */
export function hold(bytes: number): void {
  held += bytes;
}

/** What sockets have been given and have not taken, as of the last tick. */
export function holdInSockets(bytes: number): void {
  inSockets = bytes;
}

/** How many bytes wait now. */
export function heldBytes(): number {
  return held + inSockets;
}
