/** The provider `vercel`. */
export * as plan from "./vercel/plan.ts"
