/**
 * Options of an emulator's server. One that a client uses again just as the server closes it fails that request, which is a fault to
 * ask for and not one to meet by chance.
 */
export const keptAlive = { keepAliveTimeout: 10 * 60_000 } as const
