/** The signals of Linux, which a fake guest has wherever it runs. */

const numbers: Record<string, number> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGSTKFLT: 16,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGWINCH: 28,
  SIGIO: 29,
  SIGPWR: 30,
  SIGSYS: 31
}

/** What ends nothing: the ones that Linux ignores, and those that stop, because a fiber cannot be stopped. */
const harmless = new Set(["SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"])

/** A name such as `SIGTERM` or `TERM`, or a number, as the full name. */
export const toSignal = (name: string): string | undefined => {
  const full = name.startsWith("SIG") ? name : `SIG${name}`
  if (Object.hasOwn(numbers, full)) return full
  return Object.entries(numbers).find(([, number]) => String(number) === name)?.[0]
}

export const signalNumber = (name: string): number => numbers[name] ?? 0

/** Whether a process that does not handle the signal dies of it. */
export const isFatal = (name: string): boolean => !harmless.has(name)
