// Lines of text from a socket, with a limit.

import type { Socket } from 'node:net';

/**
 * Calls `take` for each line that ends with a newline, without it. A socket with a longer line than `longest` bytes is
 * destroyed; what follows a destroyed socket's last whole line is dropped.
 */
export function readLines(socket: Socket, longest: number, take: (line: string) => void): void {
  let held = Buffer.alloc(0);
  socket.on('data', (piece: Buffer) => {
    let data = held.length === 0 ? piece : Buffer.concat([held, piece]);
    for (let end = data.indexOf(10); end !== -1 && !socket.destroyed; end = data.indexOf(10)) {
      if (end > longest) return void socket.destroy();
      take(data.toString('utf8', 0, end));
      data = data.subarray(end + 1);
    }
    if (data.length > longest) return void socket.destroy();
    held = Buffer.from(data);
  });
  // Its end is told by 'close'.
  socket.on('error', () => {});
}
