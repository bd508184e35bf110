/** What the suites over more than one provider or platform are told alike. */

/** Files that are those of an operating system, or as good. */
export const nativeFiles = {
  openSurvivesRename: true,
  atomicExclusiveCreate: true,
  watchEvents: true,
  inodes: true,
  subSecondTimes: true
} as const

const root = process.getuid?.() === 0

/** A platform whose programs are processes of this host. */
export const realPlatform = {
  files: nativeFiles,
  realProcesses: true,
  additionalFds: true,
  signalsObservable: true,
  stdin: true,
  recursiveListingFollows: true,
  bindingModes: !root,
  chown: root
} as const
