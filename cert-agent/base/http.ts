// node:http's functions. An import statement makes a module of everything that node:http exports, its WebSocket classes
// too, and making those reads all of Node's own fetch library: 14 MB of each process, and 25 ms of its start.

export const { createServer, request, STATUS_CODES } = process.getBuiltinModule('node:http');
