// Runs before the first paint, so that a chosen theme does not flash.
import { showTheme, storedTheme } from './theme-choice.js';

showTheme(storedTheme());
