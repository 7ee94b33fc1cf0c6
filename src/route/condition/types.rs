//! An untyped tree -> a typed one, or the place where the types do not fit (`edgehub.md` 4.4).
//!
//! Owns: which kinds each operator and function takes. Must not know: messages; what to advise ([`super::hints`]).

use super::super::advice;
use super::super::body::{BodyPath, BodyPaths, Slot};
use super::super::error::{CompileError, Span};
use super::super::functions::{self, Function, Run, Takes};
use super::super::subject::SystemName;
use super::super::syntax::{self, Ast, Operator};
use super::super::value::{Type, Value};
use super::{Context, Expr, Node, TwinChange, hints};

/// What a body query begins with, in any case.
const BODY: &str = "body.";

const REPORTED: &str = "properties.reported.";

/// What `twin_change_includes` can ask for, in any case.
const TWIN_ROOTS: [&str; 3] = [REPORTED, "properties.desired.", "tags."];

pub(super) struct Compiler<'c, 'p> {
    context: &'c Context<'c>,
    paths: &'p mut BodyPaths,
}

/// What is after a prefix, in any case.
fn after<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

impl<'c, 'p> Compiler<'c, 'p> {
    pub(super) fn new(context: &'c Context<'c>, paths: &'p mut BodyPaths) -> Self {
        Self { context, paths }
    }

    /// One level of the tree. The parser gives none that is too high for the stack.
    pub(super) fn expr(&mut self, ast: &Ast) -> Result<Expr, CompileError> {
        let (kind, node) = self.typed(ast)?;
        Ok(Expr { span: ast.span.clone(), kind, node })
    }

    /// What a level needs on the stack is in functions of their own.
    fn typed(&mut self, ast: &Ast) -> Result<(Type, Node), CompileError> {
        Ok(match &ast.node {
            syntax::Node::System { name, braces } => self.system(ast, name, *braces)?,
            syntax::Node::Not(operand) => self.not(operand)?,
            syntax::Node::Negate(operand) => self.negate(operand)?,
            syntax::Node::And(operands) => self.and(operands)?,
            syntax::Node::Or(operands) => self.or(operands)?,
            syntax::Node::Binary { operator, operator_span, left, right } => {
                self.binary(*operator, operator_span, left, right)?
            }
            syntax::Node::Call { name, name_span, args } => {
                self.call(ast, name, name_span, args)?
            }
            leaf => self::leaf(leaf),
        })
    }

    /// `$name`, `{$name}`, `$body.path` (`edgehub.md` 4.4, 4.5).
    fn system(
        &mut self,
        ast: &Ast,
        name: &str,
        braces: bool,
    ) -> Result<(Type, Node), CompileError> {
        let brackets = name.contains(['[', ']']);
        let hides = (!braces && !brackets).then(|| format!("${name}").into());
        if let Some(path) = after(name, BODY) {
            let at =
                if braces { ast.span.start + "{$body.".len() } else { ast.span.end - path.len() };
            let slot = self.slot(path, at).map_err(|e| within(e, &ast.span))?;
            return Ok((Type::Body, Node::Body { hides, slot, path: path.into() }));
        }
        if brackets {
            let instead = advice::body_with_dots(name).map(String::into_boxed_str);
            return Ok((Type::Undefined, Node::Nothing { instead }));
        }
        // The reference reads them for the hub's own routes and refuses them at the edge (`edgehub.md` 4.6).
        if after(name, "twin.").is_some() {
            return Err(CompileError::new(
                ast.span.clone(),
                "the twin of the sender cannot be asked at the edge",
                "ask the message's properties or $body; changes of a twin come from /twinChangeNotifications/*, \
                 with twin_change_includes(properties.reported.name)",
            ));
        }
        let name = SystemName::new(name, self.context.edge);
        Ok((Type::Text, Node::System { hides, name }))
    }

    fn slot(&mut self, path: &str, at: usize) -> Result<Slot, CompileError> {
        Ok(self.paths.add(&BodyPath::parse(path, at)?))
    }

    fn not(&mut self, operand: &Ast) -> Result<(Type, Node), CompileError> {
        let typed = self.expr(operand)?;
        match typed.kind {
            Type::Bool | Type::Null | Type::Body => Ok((Type::Bool, Node::Not(Box::new(typed)))),
            kind => Err(hints::not(operand, kind)),
        }
    }

    fn negate(&mut self, operand: &Ast) -> Result<(Type, Node), CompileError> {
        let typed = self.expr(operand)?;
        match typed.kind {
            Type::Number | Type::Body => Ok((typed.kind, Node::Negate(Box::new(typed)))),
            kind => Err(hints::negate(operand, kind)),
        }
    }

    /// `null AND x` is null (`edgehub.md` 4.4).
    fn and(&mut self, operands: &[Ast]) -> Result<(Type, Node), CompileError> {
        let typed = self.operands("AND", operands)?;
        let null = typed.iter().any(|operand| operand.kind == Type::Null);
        Ok((if null { Type::Null } else { Type::Bool }, Node::And(typed)))
    }

    /// `null OR b` is b (`edgehub.md` 4.4).
    fn or(&mut self, operands: &[Ast]) -> Result<(Type, Node), CompileError> {
        let typed = self.operands("OR", operands)?;
        let null = typed.iter().all(|operand| operand.kind == Type::Null);
        Ok((if null { Type::Null } else { Type::Bool }, Node::Or(typed)))
    }

    /// Each is a condition; right after a body value at the front, anything goes.
    fn operands(&mut self, joiner: &str, operands: &[Ast]) -> Result<Vec<Expr>, CompileError> {
        let mut typed: Vec<Expr> = Vec::with_capacity(operands.len());
        for ast in operands {
            let operand = self.expr(ast)?;
            let free = matches!(&typed[..], [first] if first.kind == Type::Body);
            if !free && matches!(operand.kind, Type::Number | Type::Text) {
                return Err(hints::operand(joiner, ast, operand.kind));
            }
            typed.push(operand);
        }
        Ok(typed)
    }

    fn binary(
        &mut self,
        operator: Operator,
        sign: &Span,
        left: &Ast,
        right: &Ast,
    ) -> Result<(Type, Node), CompileError> {
        let typed_left =
            self.expr(left).map_err(|e| hints::not_in_front(e, operator, left, right))?;
        let typed_right = self.expr(right)?;
        let (l, r) = (typed_left.kind, typed_right.kind);
        let number = |kind| matches!(kind, Type::Number | Type::Body);
        let text = |kind| matches!(kind, Type::Text | Type::Body);
        let body = l == Type::Body || r == Type::Body;
        let kind = match operator {
            Operator::Multiply
            | Operator::Divide
            | Operator::Remainder
            | Operator::Add
            | Operator::Subtract => {
                (number(l) && number(r)).then_some(if body { Type::Body } else { Type::Number })
            }
            Operator::Concat => (text(l) && text(r)).then_some(Type::Text),
            Operator::Coalesce => l.same_kind(r).then_some(if body { Type::Body } else { l }),
            _ => l.same_kind(r).then_some(Type::Bool),
        };
        let Some(kind) = kind else {
            return Err(hints::binary(operator, sign, (left, l), (right, r)));
        };
        Ok((kind, Node::Binary(operator, Box::new(typed_left), Box::new(typed_right))))
    }

    fn call(
        &mut self,
        ast: &Ast,
        name: &str,
        name_span: &Span,
        args: &[Ast],
    ) -> Result<(Type, Node), CompileError> {
        let Some(function) = functions::find(name) else {
            let what = format!("there is no function `{name}`");
            let todo = match advice::nearest(name, functions::names()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there are: {}", functions::names().collect::<Vec<_>>().join(", ")),
            };
            return Err(CompileError::new(name_span.clone(), what, todo));
        };
        if args.len() < function.fewest || args.len() > function.most {
            return Err(hints::count(function, ast, args.len()));
        }
        if matches!(function.run, Run::TwinChange) {
            return self.twin_change(function, name_span, &args[0]);
        }
        let mut typed = Vec::with_capacity(args.len());
        for (index, arg) in args.iter().enumerate() {
            let value = self.expr(arg)?;
            let takes: Takes = function.takes(index);
            if !takes.accepts(value.kind) {
                return Err(hints::argument(function, index, arg, value.kind));
            }
            typed.push(value);
        }
        Ok((function.gives, Node::Call(function, typed)))
    }

    /// `twin_change_includes(properties.reported.fan)` (`edgehub.md` 4.6).
    fn twin_change(
        &mut self,
        function: &Function,
        name_span: &Span,
        arg: &Ast,
    ) -> Result<(Type, Node), CompileError> {
        if !self.context.twin_changes {
            return Err(CompileError::new(
                name_span.clone(),
                format!("`{}` is for routes from /twinChangeNotifications/* alone", function.name),
                "write FROM /twinChangeNotifications/*, or take the function out",
            ));
        }
        let syntax::Node::Property(path) = &arg.node else {
            return Err(hints::path(function, arg));
        };
        if !TWIN_ROOTS.iter().any(|root| after(path, root).is_some()) {
            return Err(CompileError::new(
                arg.span.clone(),
                format!("`{path}` is no path of a twin"),
                "begin it with properties.reported. or properties.desired. or tags.",
            ));
        }
        let whole = self.slot(path, arg.span.start).map_err(|e| within(e, &arg.span))?;
        let in_patch = after(path, REPORTED)
            .map(|path| self.slot(path, arg.span.start))
            .transpose()
            .map_err(|e| within(e, &arg.span))?;
        let change = TwinChange { whole, in_patch, path: path.as_str().into() };
        Ok((Type::Bool, Node::TwinChange(Box::new(change))))
    }
}

/// What needs no context.
fn leaf(node: &syntax::Node) -> (Type, Node) {
    let (kind, value) = match node {
        syntax::Node::Text(text) => (Type::Text, Value::Text(text.clone().into())),
        syntax::Node::Number(Some(number)) => (Type::Number, Value::from(*number)),
        syntax::Node::Bool(b) => (Type::Bool, Value::Bool(*b)),
        syntax::Node::Null => (Type::Null, Value::Null),
        syntax::Node::Property(name) => return (Type::Text, Node::Property(name.as_str().into())),
        // Also a hexadecimal number of more than 64 bits (`edgehub.md` 4.1). Everything else is not a leaf.
        _ => (Type::Undefined, Value::Undefined),
    };
    (kind, Node::Literal(value))
}

/// The error with its place inside `span`.
fn within(mut error: CompileError, span: &Span) -> CompileError {
    error.span.start = error.span.start.clamp(span.start, span.end);
    error.span.end = error.span.end.clamp(error.span.start, span.end);
    error
}
