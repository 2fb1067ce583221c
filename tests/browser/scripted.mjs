export const scripted = {};
