import { useEffect } from 'preact/hooks';

import { useApp, useAppState, useUi } from '../context.js';
import { FORMATS, isAboutFormat, isStrict } from '../format.js';
import { t } from '../i18n.js';
import { Choice, Field, shortened, TextArea } from './fields.jsx';
import { Icon } from './icons.jsx';

const SCHEMA_EXAMPLE = '{\n  "type": "object",\n  "properties": { "color": { "type": "string" } },\n  "required": ["color"]\n}';
const GRAMMAR_EXAMPLE = 'root ::= "yes" | "no"';

/** What form a reply must have. */
export function FormatSettings() {
  const app = useApp();
  const { settings } = app;
  const { format } = settings;
  useEffect(() => app.format.check.soon(), []);
  return (
    <>
      <Field name="format" id="setting-format" label={t('format.label')} fallback={t(`format.${app.baseSettings.format}`)}>
        <Choice
          headed
          label={t('format.label')}
          name="format"
          value={format}
          options={FORMATS.map((name) => [name, t(`format.${name}`)])}
          onChange={(value) => app.changeSetting('format', value)}
        />
      </Field>
      {(format === 'text' || format === 'json') && <p class="help">{t(`format.${format}Help`)}</p>}
      {format === 'schema' && (
        <Definition name="schema" label={t('format.schema')} help={t('format.schemaHelp')} placeholder={SCHEMA_EXAMPLE} />
      )}
      {format === 'grammar' && (
        <Definition name="grammar" label={t('format.grammar')} help={t('format.grammarHelp')} placeholder={GRAMMAR_EXAMPLE} />
      )}
    </>
  );
}

/**
 * The text that defines the form, and what is wrong with it.
 * @param {{ name: 'schema' | 'grammar', label: string, help: string, placeholder: string }} props
 */
function Definition({ name, label, help, placeholder }) {
  const app = useApp();
  const problem = useAppState((state) => state.formatProblem);
  const id = `setting-${name}`;
  return (
    <Field name={name} id={id} label={label} help={help} fallback={shortened(app.baseSettings[name])}>
      <TextArea
        id={id}
        rows={8}
        code
        value={app.settings[name]}
        placeholder={placeholder}
        invalid={problem !== null}
        onText={(text) => app.changeSetting(name, text)}
      />
      <div role="status">
        {problem && (
          <div class="failure small" id={`${id}-problem`}>
            <p dir="auto">{worded(problem)}</p>
            {problem.hint !== '' && <p dir="auto">{problem.hint}</p>}
            {problem.line !== null && (
              <button type="button" class="link" onClick={() => selectLine(id, Number(problem.line))}>
                {t('format.showLine', { line: problem.line })}
              </button>
            )}
          </div>
        )}
      </div>
    </Field>
  );
}

/** Says that the model is held to a form, and leads to where that is changed. */
export function FormatChip() {
  const app = useApp();
  const ui = useUi();
  const format = useAppState(() => (isStrict(app.settings) ? app.settings.format : 'text'));
  if (format === 'text') return null;
  return (
    <button type="button" class="format-chip" title={t('format.change')} onClick={() => ui.open({ name: 'settings', field: fieldOf(format) })}>
      <Icon name="braces" />
      <span>{t(`format.${format}`)}</span>
    </button>
  );
}

/** After a refusal that is about the form: the way to it. @param {{ failure: import('../state.js').Failure }} props */
export function ChangeFormat({ failure }) {
  const app = useApp();
  const ui = useUi();
  if (!isAboutFormat(failure)) return null;
  return (
    <button type="button" onClick={() => ui.open({ name: 'settings', field: fieldOf(app.settings.format) })}>
      {t('format.change')}
    </button>
  );
}

/** @param {import('../format.js').Problem} problem most name the line themselves */
const worded = ({ message, line }) =>
  line === null || /\bline \d/i.test(message) ? message : t('format.problem', { line, message });

/** @param {import('../format.js').Format} format */
const fieldOf = (format) => (format === 'schema' || format === 'grammar' ? `setting-${format}` : 'setting-format');

/** @param {string} id @param {number} line from 1 */
function selectLine(id, line) {
  const field = /** @type {HTMLTextAreaElement | null} */ (document.getElementById(id));
  if (!field) return;
  const lines = field.value.split('\n');
  const start = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
  field.focus();
  field.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
}
